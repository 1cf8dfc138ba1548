"""Writing a prompt cache: in pieces, by several processes, resumed after a kill, and published when it is complete."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_tune.answer_path.host_buffer import HostBuffer
from moe_tune.answer_path.store import (
    ANSWERS,
    FORMAT,
    INDEX,
    KEYS_VALUES,
    RECORD,
    StorePlan,
    index_bytes,
    open_store,
    record_checksum,
    sizes_fit,
)
from moe_tune.base.errors import ResourceError
from moe_tune.base.published import published, write_json


class StoreWriter:
    """Fills the draft of a cache, resumes what an interrupted build left of it, and publishes it when it is complete.

    The draft lies beside the finished folder. Its files have their full size from the start, so that every rank writes
    at places of its own; what is safely on disk is listed in one journal per rank. Rank 0 must be constructed first.

    Args:
        folder: Where the finished cache shall be.
        plan: Its sizes.
        description: What it is of, in values that JSON knows.
        rank: Which of several processes this is; it is asked for the questions whose index modulo ``world_size`` it is.
        world_size: How many processes there are.

    Raises:
        ResourceError: The disk is too small.
    """

    def __init__(
        self, folder: Path, plan: StorePlan, description: dict[str, Any], rank: int = 0, world_size: int = 1
    ) -> None:
        self.folder, self.plan, self.description = folder, plan, description
        self.rank, self.world_size = rank, world_size
        self.draft = draft_of(folder)
        if rank == 0:
            self._lay_out()
        self._prefixes, self._questions = self._committed()
        self._new: dict[str, list[int]] = {"prefixes": [], "questions": []}
        self._data = {name: (self.draft / name).open("r+b") for name in plan.sizes}
        self._journal = (self.draft / f"done.{rank}").open("ab")
        self._journal.truncate(_entries(self.draft / f"done.{rank}")[1])
        self._since = time.monotonic()
        self._own = HostBuffer(plan.shape.dtype)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._data.values(), self._journal):
            file.close()

    def missing_prefixes(self) -> list[int]:
        """Return the prefixes nobody has written; a rank writes those that its own questions need."""
        return [index for index in range(len(self.plan.prefix_length_G)) if index not in self._prefixes]

    def missing_questions(self) -> list[int]:
        """Return the questions this rank still has to write."""
        share = range(self.rank, len(self.plan.own_length_Q), self.world_size)
        return [index for index in share if index not in self._questions]

    def write_prefix(self, index: int, states_U2HPC: Tensor) -> None:
        """Write the keys and values of a prefix.

        Raises:
            ValueError: They have not the planned size or dtype.
        """
        width, length = self.plan.shape.token_values, int(self.plan.prefix_length_G[index])
        self._put(KEYS_VALUES, self.plan.prefix_start_G[index] * width, length * width, states_U2HPC.cpu())
        self._prefixes.add(index)
        self._new["prefixes"].append(index)

    def write(self, question_B: Sequence[int], answer_BXD: Tensor, own_UVBHSC: Tensor, length_B: Tensor) -> None:
        """Write the states of a padded batch of questions, as ``PromptStates`` holds them.

        Raises:
            ValueError: The states have not the planned sizes or dtype.
        """
        plan, answer_BXD, own_UVBHSC = self.plan, answer_BXD.cpu(), self._own.copy(own_UVBHSC)
        each, width = plan.shape.answer_values, plan.shape.token_values
        for place, (question, length) in enumerate(zip(question_B, length_B.tolist(), strict=True)):
            planned = int(plan.own_length_Q[question])
            rows = plan.answer_rows_Q[question]
            count = rows.stop - rows.start
            answers = answer_BXD[place] if plan.answers_Q is None else answer_BXD[place, :count]
            self._put(ANSWERS, rows.start * each, count * each, answers)
            own_UVHSC = own_UVBHSC[:, :, place, :, :length]
            self._put(KEYS_VALUES, plan.own_start_Q[question] * width, planned * width, own_UVHSC)
        self._questions.update(question_B)
        self._new["questions"].extend(question_B)

    def commit(self) -> None:
        """Flush what was written to disk, and after it the journal that says so: a kill loses only what comes later."""
        for file in self._data.values():
            file.flush()
            os.fsync(file.fileno())
        now = time.monotonic()
        self._journal.write(json.dumps({**self._new, "seconds": now - self._since}).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._new, self._since = {"prefixes": [], "questions": []}, now

    def publish(self) -> None:
        """Give the complete cache its final name; where somebody else has published it meanwhile, drop this one.

        Raises:
            RuntimeError: Something is not written and committed, by this rank or another.
        """
        self.commit()
        prefixes, questions = self._committed()
        missing = len(self.plan.prefix_length_G) - len(prefixes) + len(self.plan.own_length_Q) - len(questions)
        if missing:
            raise RuntimeError(f"{missing} prefixes and questions of {self.draft} are not written")
        record = {
            "format": FORMAT,
            "key": self.folder.name,
            "description": self.description,
            "shape": {**asdict(self.plan.shape), "dtype": str(self.plan.shape.dtype).removeprefix("torch.")},
            "questions": len(self.plan.own_length_Q),
            "bytes": self.plan.bytes,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(sum(entry["seconds"] for entry in _entries(self.draft / "done.0")[0]), 1),
        }
        write_json(self.draft / RECORD, {**record, "checksum": record_checksum(record, index_bytes(self.plan))})
        try:
            os.replace(self.draft, self.folder)
        except OSError:  # something stands there: a complete cache stays, a damaged one goes
            if open_store(self.folder) is not None:
                shutil.rmtree(self.draft)
                return
            shutil.rmtree(self.folder)
            os.replace(self.draft, self.folder)
        for path in self.folder.iterdir():  # the journals, and what a kill left half-written
            if path.name not in (RECORD, INDEX, *self.plan.sizes):
                path.unlink()

    def _put(self, name: str, start: int, count: int, values: Tensor) -> None:
        if values.numel() != count or values.dtype != self.plan.shape.dtype:
            raise ValueError(f"expected {count} {self.plan.shape.dtype} but got {values.shape} {values.dtype}")
        self._data[name].seek(start * values.itemsize)
        self._data[name].write(values.detach().flatten().view(torch.uint8).numpy().data)

    def _lay_out(self) -> None:
        index = self.draft / INDEX
        if not (index.is_file() and index.read_bytes() == index_bytes(self.plan) and sizes_fit(self.draft, self.plan)):
            shutil.rmtree(self.draft, ignore_errors=True)
        self.draft.mkdir(parents=True, exist_ok=True)
        files = {self.draft / name: size for name, size in self.plan.sizes.items()}
        needed = self.plan.bytes - sum(file.stat().st_blocks * 512 for file in files if file.exists())
        free = shutil.disk_usage(self.draft).free
        if needed > free:
            raise ResourceError(
                f"expected {needed:,} bytes of free disk for a prompt cache but got {free:,} ({self.folder.parent}). "
                "Hint: --model.answer_path.folder on a larger disk, a lower --model.answer_path.limit_gb, or "
                "python -m moe_tune cache clean."
            )
        for file, size in files.items():
            file.touch()
            os.truncate(file, size)
        with published(index) as draft:  # last: it says that the files are there
            draft.write_bytes(index_bytes(self.plan))

    def _committed(self) -> tuple[set[int], set[int]]:
        """Return the prefixes and the questions that the journals of all ranks, past and present, list."""
        entries = [entry for journal in self.draft.glob("done.*") for entry in _entries(journal)[0]]
        prefixes = {index for entry in entries for index in entry["prefixes"]}
        return prefixes, {index for entry in entries for index in entry["questions"]}


def draft_of(folder: Path) -> Path:
    """Return where a cache lies while it is built."""
    return folder.with_name(f"{folder.name}.building")


def _entries(journal: Path) -> tuple[list[dict[str, Any]], int]:
    """Return what a journal lists, and where its last whole line ends: a kill or a power cut may have torn the next."""
    entries, end = [], 0
    for line in journal.read_bytes().split(b"\n")[:-1]:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
        end += len(line) + 1
    return entries, end
