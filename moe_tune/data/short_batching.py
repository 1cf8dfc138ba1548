"""Prompts of short answers as tokens, and batches of them with padding on the left, as generation needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, slots=True)
class ShortQuestion:
    """A question that is answered in words.

    Args:
        prompt: What the model is given.
        accepted: The texts that are right answers, at least one.
        id: First 16 hex digits of sha256 over its NFC text, plus an occurrence ordinal (``-1``, ...) for repeats.
        content_hash: The same without the ordinal: equal for copies.
        where: The place a person can find it again.
    """

    prompt: str
    accepted: tuple[str, ...]
    id: str
    content_hash: str
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedShort:
    """A short question's prompt as the model sees it.

    Args:
        question: The question.
        ids_S: Its tokens behind those that the tokenizer begins a text with.

    Shape:
        ids_S: ``(S,)``, int32, S tokens.
    """

    question: ShortQuestion
    ids_S: Tensor

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.ids_S)


class ShortBatch(NamedTuple):
    """A batch of prompts, a row each.

    Args:
        input_ids_BS: Tokens, padded on the left.
        attention_mask_BS: 1 at real tokens, 0 at padding.
        question_B: Index of the question.

    Shape:
        ``(B, S)`` and ``(B,)``, all int64.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    question_B: Tensor

    def to(self, device: torch.device) -> "ShortBatch":
        """Return the batch on a device."""
        return ShortBatch(*(value.to(device) for value in self))


class ShortDataset(Dataset[ShortBatch]):
    """Encoded prompts; asked for a list of indices, it answers with their batch."""

    def __init__(self, questions: Sequence[EncodedShort], pad_id: int) -> None:
        self.questions, self.pad_id = questions, pad_id

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, indices: list[int]) -> ShortBatch:
        chosen = [self.questions[one] for one in indices]
        shape = (len(chosen), max(one.length for one in chosen))
        ids_BS, mask_BS = torch.full(shape, self.pad_id), torch.zeros(shape, dtype=torch.long)
        for row, one in enumerate(chosen):
            ids_BS[row, -one.length :], mask_BS[row, -one.length :] = one.ids_S.long(), 1
        return ShortBatch(ids_BS, mask_BS, torch.tensor(indices))
