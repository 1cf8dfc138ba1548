"""The prompt cache on disk: what one pass over a split's prompts leaves, written in pieces, read without copies."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from moe_tune.answer_path.states import PromptStates, StateShape
from moe_tune.errors import ResourceError
from moe_tune.runs.atomic import published, write_json

FORMAT = 1
"""Version of the layout; a cache of another one is built anew."""
RECORD, INDEX, ANSWERS, KEYS_VALUES = "cache.json", "index.safetensors", "answers.bin", "keys_values.bin"


def cache_root(folder: str | None) -> Path:
    """Return where prompt caches are kept.

    Args:
        folder: The user's choice; ``None`` is ``moe_tune/prompts`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if folder is not None:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "moe_tune" / "prompts"


@dataclass(frozen=True, eq=False)
class StorePlan:
    """The sizes of a cache, known before its first byte is written; Q counts questions, G shared prefixes.

    Args:
        shape: What is kept per token and per question.
        own_length_Q: Tokens each question keeps for itself, int64, at least 0.
        prefix_Q: Which prefix comes before them, int64; -1 where there is none.
        prefix_length_G: Tokens of each prefix, int64.
        position_Q: Position of each answer token in its whole prompt, int64.
    """

    shape: StateShape
    own_length_Q: Tensor
    prefix_Q: Tensor
    prefix_length_G: Tensor
    position_Q: Tensor

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of states."""
        tokens = int(self.prefix_length_G.sum() + self.own_length_Q.sum())
        return {ANSWERS: len(self.own_length_Q) * self.shape.answer_bytes, KEYS_VALUES: tokens * self.shape.token_bytes}

    @property
    def bytes(self) -> int:
        """Size of the kept states."""
        return sum(self.sizes.values())

    @cached_property
    def prefix_start_G(self) -> list[int]:
        """Tokens of keys and values stored before those of each prefix."""
        return [int(end) for end in self.prefix_length_G.cumsum(0) - self.prefix_length_G]

    @cached_property
    def own_start_Q(self) -> list[int]:
        """Tokens of keys and values stored before each question's own; all prefixes come first."""
        before = self.prefix_length_G.sum()
        return [int(before + end) for end in self.own_length_Q.cumsum(0) - self.own_length_Q]


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
        self.draft = folder.with_name(f"{folder.name}.building")
        if rank == 0:
            self._lay_out()
        self._prefixes, self._questions = self._committed()
        self._new: dict[str, list[int]] = {"prefixes": [], "questions": []}
        self._data = {name: (self.draft / name).open("r+b") for name in plan.sizes}
        self._journal = (self.draft / f"done.{rank}").open("ab")
        self._journal.truncate(_entries(self.draft / f"done.{rank}")[1])
        self._since = time.monotonic()

    def __enter__(self) -> "StoreWriter":
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files; what is not committed will be asked for again."""
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

        Args:
            index: Which prefix.
            states_U2HPC: Its keys and values.

        Raises:
            ValueError: They have not the planned size or dtype.
        """
        width, length = self.plan.shape.token_values, int(self.plan.prefix_length_G[index])
        self._put(KEYS_VALUES, self.plan.prefix_start_G[index] * width, length * width, states_U2HPC.cpu())
        self._prefixes.add(index)
        self._new["prefixes"].append(index)

    def write(self, question_B: Sequence[int], answer_BXD: Tensor, own_UVBHSC: Tensor, length_B: Tensor) -> None:
        """Write the states of a padded batch of questions, as ``PromptStates`` holds them.

        Args:
            question_B: Which questions.
            answer_BXD: Their states at the answer position.
            own_UVBHSC: The keys and values of their own tokens; padding is not kept.
            length_B: How many own tokens each has.

        Raises:
            ValueError: The states have not the planned sizes or dtype.
        """
        plan, answer_BXD, own_UVBHSC = self.plan, answer_BXD.cpu(), own_UVBHSC.cpu()
        each, width = plan.shape.answer_values, plan.shape.token_values
        for place, (question, length) in enumerate(zip(question_B, length_B.tolist(), strict=True)):
            planned = int(plan.own_length_Q[question])
            self._put(ANSWERS, question * each, each, answer_BXD[place])
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
        write_json(self.draft / RECORD, {**record, "checksum": _checksum(record, _index(self.plan))})
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
        if not (index.is_file() and index.read_bytes() == _index(self.plan) and _sizes_fit(self.draft, self.plan)):
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
            draft.write_bytes(_index(self.plan))

    def _committed(self) -> tuple[set[int], set[int]]:
        """Return the prefixes and the questions that the journals of all ranks, past and present, list."""
        entries = [entry for journal in self.draft.glob("done.*") for entry in _entries(journal)[0]]
        prefixes = {index for entry in entries for index in entry["prefixes"]}
        return prefixes, {index for entry in entries for index in entry["questions"]}


class PromptStore:
    """A complete cache, mapped into memory; ``open_store`` gives it.

    Args:
        folder: The cache.
        plan: Its sizes.
        record: What its ``cache.json`` says.
    """

    def __init__(self, folder: Path, plan: StorePlan, record: dict[str, Any]) -> None:
        self.folder, self.plan, self.record = folder, plan, record
        self.description: dict[str, Any] = record["description"]
        shape = plan.shape
        answers = _mapped(folder / ANSWERS, shape.dtype)
        self._answers_QXD = answers.view(len(plan.own_length_Q), 1 + len(shape.lower_routers), shape.width)
        self._keys_values = _mapped(folder / KEYS_VALUES, shape.dtype)

    def batch(self, question_B: Tensor | Sequence[int]) -> PromptStates:
        """Return the states of questions, in the order asked; prefixes are views of the file, not to be written to.

        Args:
            question_B: Indices of the questions; one may come several times.
        """
        rows_B = torch.as_tensor(question_B, dtype=torch.long, device="cpu")
        plan, shape = self.plan, self.plan.shape
        length_B, prefix_B = plan.own_length_Q[rows_B], plan.prefix_Q[rows_B]
        longest = max(length_B.tolist(), default=0)
        sizes = (shape.upper_layers, 2, len(rows_B), shape.key_value_heads, longest, shape.head_dim)
        own_UVBHSC = torch.zeros(sizes, dtype=shape.dtype)
        for place, (question, length) in enumerate(zip(rows_B.tolist(), length_B.tolist(), strict=True)):
            own_UVBHSC[:, :, place, :, :length] = self._tokens(plan.own_start_Q[question], length)
        prefixes = {
            index: self._tokens(plan.prefix_start_G[index], int(plan.prefix_length_G[index]))
            for index in sorted(set(prefix_B.tolist()) - {-1})
        }
        return PromptStates(
            self._answers_QXD[rows_B], own_UVBHSC, length_B, prefix_B, prefixes, plan.position_Q[rows_B]
        )

    def touch(self) -> None:
        """Note that the cache was used now; one that is shared read-only cannot remember it."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / RECORD)

    def _tokens(self, start: int, length: int) -> Tensor:
        shape = self.plan.shape
        values = self._keys_values[start * shape.token_values : (start + length) * shape.token_values]
        return values.view(shape.upper_layers, 2, shape.key_value_heads, length, shape.head_dim)


def open_store(folder: Path) -> PromptStore | None:
    """Return the complete cache in a folder; ``None`` where there is none, or one that is truncated or edited.

    Its record, its index and the sizes of its files are checked, not every byte of the states.

    Args:
        folder: The cache, named by its key.
    """
    try:
        record, index = json.loads((folder / RECORD).read_bytes()), (folder / INDEX).read_bytes()
        if (record["format"], record["key"]) != (FORMAT, folder.name) or record["checksum"] != _checksum(record, index):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    written = record["shape"]
    changes = {"lower_routers": tuple(written["lower_routers"]), "dtype": getattr(torch, written["dtype"])}
    plan = StorePlan(StateShape(**{**written, **changes}), **safetensors.torch.load(index))
    return PromptStore(folder, plan, record) if _sizes_fit(folder, plan) else None


def _index(plan: StorePlan) -> bytes:
    """Return the lengths and positions as the index file holds them: equal bytes, equal plans."""
    names = ("own_length_Q", "prefix_Q", "prefix_length_G", "position_Q")
    return safetensors.torch.save({name: getattr(plan, name).clone() for name in names}, {"format": str(FORMAT)})


def _checksum(record: dict[str, Any], index: bytes) -> str:
    covered = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode() + index).hexdigest()


def _sizes_fit(folder: Path, plan: StorePlan) -> bool:
    files = {folder / name: size for name, size in plan.sizes.items()}
    return all(file.is_file() and file.stat().st_size == size for file, size in files.items())


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


def _mapped(file: Path, dtype: torch.dtype) -> Tensor:
    """Return a file's values as a view; read-only, because a private mapping may not be larger than the memory."""
    if not file.stat().st_size:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # PyTorch warns of arrays it must not write to
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r")).view(dtype)
