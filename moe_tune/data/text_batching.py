"""Documents as tokens: the first half is prompt, the second half is scored; and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

UNSCORED = -100
"""Stands where nothing is scored; ``cross_entropy`` ignores it, too."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is scored.

    Args:
        text: What it says.
        id: First 16 hex digits of sha256 over its NFC text, plus an occurrence ordinal (``-1``, ...) for repeats.
        content_hash: The same without the ordinal: equal for copies.
        where: The place a person can find it again.
    """

    text: str
    id: str
    content_hash: str
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """A document as the model sees it.

    Args:
        document: The document.
        ids_S: Its tokens behind those that the tokenizer begins a text with, cut at the most there may be; at least 2.

    Shape:
        ids_S: ``(S,)``, int32, S tokens.
    """

    document: Document
    ids_S: Tensor

    @property
    def prompt(self) -> int:
        """Tokens of the first half, which is prompt: the smaller one."""
        return len(self.ids_S) // 2

    @property
    def scored(self) -> int:
        """Tokens of the second half, each predicted by the one before it."""
        return len(self.ids_S) - self.prompt

    @property
    def length(self) -> int:
        """Tokens that run: all but the last, which predicts nothing."""
        return len(self.ids_S) - 1


class TextBatch(NamedTuple):
    """A batch of documents, a row each.

    Args:
        input_ids_BS: Tokens that run, padded on the right.
        attention_mask_BS: 1 at real tokens, 0 at padding.
        next_BS: The token after each that predicts one of the second half; ``UNSCORED`` elsewhere.
        document_B: Index of the document.

    Shape:
        ``(B, S)`` and ``(B,)``, all int64.
    """

    input_ids_BS: Tensor
    attention_mask_BS: Tensor
    next_BS: Tensor
    document_B: Tensor

    @property
    def answer_BS(self) -> Tensor:
        """Where the tokens of scope ``answer`` are: the last of the first half, and all of the second but its last."""
        return self.next_BS != UNSCORED

    def to(self, device: torch.device) -> "TextBatch":
        """Return the batch on a device."""
        return TextBatch(*(value.to(device) for value in self))


class TextDataset(Dataset[TextBatch]):
    """Encoded documents; asked for a list of indices, it answers with their batch."""

    def __init__(self, documents: Sequence[EncodedDocument], pad_id: int) -> None:
        self.documents, self.pad_id = documents, pad_id

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, indices: list[int]) -> TextBatch:
        chosen = [self.documents[one] for one in indices]
        shape = (len(chosen), max(one.length for one in chosen))
        ids_BS, next_BS = torch.full(shape, self.pad_id), torch.full(shape, UNSCORED)
        mask_BS = torch.zeros(shape, dtype=torch.long)
        for row, one in enumerate(chosen):
            ids_BS[row, : one.length], mask_BS[row, : one.length] = one.ids_S[:-1].long(), 1
            next_BS[row, one.prompt - 1 : one.length] = one.ids_S[one.prompt :].long()
        return TextBatch(ids_BS, mask_BS, next_BS, torch.tensor(indices))
