"""Documents as tokens, some of which are scored; and batches of them."""

from collections.abc import Mapping, Sequence
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
        messages: The turns of a conversation; ``text`` is what they say, and no template is in it.
    """

    text: str
    id: str
    content_hash: str
    where: str
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """A document, or a block of one, as the model sees it.

    Args:
        document: The document.
        ids_S: Its tokens behind those that the tokenizer begins a text with, cut at the most there may be; at least 2.
        scored_S: Which of them are scored, each predicted by those before it; never the first.

    Shape:
        ids_S, scored_S: ``(S,)``, int32 and bool, S tokens.
    """

    document: Document
    ids_S: Tensor
    scored_S: Tensor

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return int(self.scored_S.sum())

    @property
    def length(self) -> int:
        """Tokens that run: all but the last, which predicts nothing."""
        return len(self.ids_S) - 1


def second_half(tokens: int) -> Tensor:
    """Return which tokens of a document are scored where its first half, the smaller one, is prompt.

    Example:
        >>> second_half(5).tolist()
        [False, False, True, True, True]
    """
    return torch.arange(tokens) >= tokens // 2


class TextBatch(NamedTuple):
    """A batch of documents, a row each.

    Args:
        input_ids_BS: Tokens that run, padded on the right.
        attention_mask_BS: 1 at real tokens, 0 at padding.
        next_BS: The token after each that predicts a scored one; ``UNSCORED`` elsewhere.
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
        """Where the tokens of scope ``answer`` are, those that predict a scored one."""
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
            next_BS[row, : one.length] = one.ids_S[1:].long().where(one.scored_S[1:], UNSCORED)
        return TextBatch(ids_BS, mask_BS, next_BS, torch.tensor(indices))
