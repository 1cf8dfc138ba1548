"""The prompt cache on disk: what one pass over a split's prompts leaves, read without copies."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from moe_tune.answer_path.host_buffer import HostBuffer
from moe_tune.answer_path.states import PromptStates
from moe_tune.base.user_folders import user_folder
from moe_tune.models.state_shape import StateShape

FORMAT = 1
"""Version of the layout; a cache of another one is built anew."""
RECORD, INDEX, ANSWERS, KEYS_VALUES = "cache.json", "index.safetensors", "answers.bin", "keys_values.bin"


def cache_root(folder: str | None) -> Path:
    """Return where prompt caches are kept."""
    if folder is not None:
        return Path(folder).expanduser()
    return user_folder("XDG_CACHE_HOME", "~/.cache") / "prompts"


@dataclass(frozen=True, eq=False)
class StorePlan:
    """The sizes of a cache, known before its first byte is written; Q counts questions, G shared prefixes.

    Args:
        shape: What is kept per token and per question.
        own_length_Q: Tokens each question keeps for itself, int64, at least 0.
        prefix_Q: Which prefix comes before them, int64; -1 where there is none.
        prefix_length_G: Tokens of each prefix, int64.
        position_Q: Position of each answer token in its whole prompt, int64.
        answers_Q: Answer tokens of each question, int64; ``None`` where each has one.
    """

    shape: StateShape
    own_length_Q: Tensor
    prefix_Q: Tensor
    prefix_length_G: Tensor
    position_Q: Tensor
    answers_Q: Tensor | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of states."""
        tokens = int(self.prefix_length_G.sum() + self.own_length_Q.sum())
        answers = len(self.own_length_Q) if self.answers_Q is None else int(self.answers_Q.sum())
        return {ANSWERS: answers * self.shape.answer_bytes, KEYS_VALUES: tokens * self.shape.token_bytes}

    @property
    def bytes(self) -> int:
        """Size of the kept states."""
        return sum(self.sizes.values())

    @cached_property
    def answer_rows_Q(self) -> list[slice]:
        """Which of the stored answer tokens are each question's."""
        counts = [1] * len(self.own_length_Q) if self.answers_Q is None else self.answers_Q.tolist()
        return [slice(end - count, end) for end, count in zip(itertools.accumulate(counts), counts, strict=True)]

    @cached_property
    def prefix_start_G(self) -> list[int]:
        """Tokens of keys and values stored before those of each prefix."""
        return [int(end) for end in self.prefix_length_G.cumsum(0) - self.prefix_length_G]

    @cached_property
    def own_start_Q(self) -> list[int]:
        """Tokens of keys and values stored before each question's own; all prefixes come first."""
        before = self.prefix_length_G.sum()
        return [int(before + end) for end in self.own_length_Q.cumsum(0) - self.own_length_Q]


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
        self._answers_QXD = answers.view(-1, 1 + len(shape.lower_routers), shape.width)
        self._keys_values = _mapped(folder / KEYS_VALUES, shape.dtype)
        self._own = HostBuffer(shape.dtype)

    def batch(self, question_B: Tensor | Sequence[int]) -> PromptStates:
        """Return the states of questions, in the order asked; prefixes are views of the file, not to be written to.

        The questions' own keys and values lie in one buffer, which the next call writes to. A gradient that would still
        need the old ones is refused by PyTorch.
        """
        rows_B = torch.as_tensor(question_B, dtype=torch.long, device="cpu")
        plan, shape = self.plan, self.plan.shape
        length_B, prefix_B = plan.own_length_Q[rows_B], plan.prefix_Q[rows_B]
        longest = max(length_B.tolist(), default=0)
        sizes = (shape.upper_layers, 2, len(rows_B), shape.key_value_heads, longest, shape.head_dim)
        own_UVBHSC = self._own.of(math.prod(sizes)).view(sizes)
        for place, (question, length) in enumerate(zip(rows_B.tolist(), length_B.tolist(), strict=True)):
            own_UVBHSC[:, :, place, :, :length] = self._tokens(plan.own_start_Q[question], length)
            own_UVBHSC[:, :, place, :, length:] = 0
        prefixes = {
            index: self._tokens(plan.prefix_start_G[index], int(plan.prefix_length_G[index]))
            for index in sorted(set(prefix_B.tolist()) - {-1})
        }
        if plan.answers_Q is None:
            answer_BXD = self._answers_QXD[rows_B]
        else:
            parts = [self._answers_QXD[plan.answer_rows_Q[question]] for question in rows_B.tolist()]
            answer_BXD = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return PromptStates(answer_BXD, own_UVBHSC, length_B, prefix_B, prefixes, plan.position_Q[rows_B])

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
    """
    try:
        record, index = json.loads((folder / RECORD).read_bytes()), (folder / INDEX).read_bytes()
        if (record["format"], record["key"]) != (FORMAT, folder.name):
            return None
        if record["checksum"] != record_checksum(record, index):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    written = record["shape"]
    changes = {"lower_routers": tuple(written["lower_routers"]), "dtype": getattr(torch, written["dtype"])}
    plan = StorePlan(StateShape(**{**written, **changes}), **safetensors.torch.load(index))
    return PromptStore(folder, plan, record) if sizes_fit(folder, plan) else None


def index_bytes(plan: StorePlan) -> bytes:
    """Return the lengths and positions as the index file holds them: equal bytes, equal plans."""
    names = ("own_length_Q", "prefix_Q", "prefix_length_G", "position_Q")
    kept = {name: getattr(plan, name).clone() for name in names}
    if plan.answers_Q is not None:
        kept["answers_Q"] = plan.answers_Q.clone()
    return safetensors.torch.save(kept, {"format": str(FORMAT)})


def record_checksum(record: dict[str, Any], index: bytes) -> str:
    """Return the sha256 over a cache's record, its ``checksum`` left out, and its index."""
    covered = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode() + index).hexdigest()


def sizes_fit(folder: Path, plan: StorePlan) -> bool:
    """Return whether the files of states are there with their full sizes."""
    files = {folder / name: size for name, size in plan.sizes.items()}
    return all(file.is_file() and file.stat().st_size == size for file, size in files.items())


def _mapped(file: Path, dtype: torch.dtype) -> Tensor:
    """Return a file's values as a view; read-only, because a private mapping may not be larger than the memory."""
    if not file.stat().st_size:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # PyTorch warns of arrays it must not write to
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r")).view(dtype)
