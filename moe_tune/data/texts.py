"""The documents of a text source: read, checked, cut and encoded, each when first asked for."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from moe_tune.base.errors import require
from moe_tune.data.conversation import conversation_tokens, messages_fault
from moe_tune.data.encoding import text_tokens
from moe_tune.data.question import text_hash
from moe_tune.data.source import RawRow
from moe_tune.data.source_items import SourceItems
from moe_tune.data.text_batching import Document, EncodedDocument, second_half
from moe_tune.data.text_source import TextSource
from moe_tune.data.validation import BadRow, OnBadRow, text_fault

LEAST = 2
"""Tokens a document has to have: one predicts the other."""


class Texts(SourceItems[Document, EncodedDocument]):
    """The documents of a text source, cut at its ``max_tokens`` and at the model's context.

    Args:
        source: Where they come from.
        on_bad_row: ``error`` stops at rows that hold no text; ``drop`` leaves them out and records them.
        limit: At most so many documents: those with the smallest content hashes; ``None`` takes all.

    Raises:
        ConfigError: ``max_tokens`` of the source is below 2.
    """

    noun, lacking = "documents", "hold no text to score"

    def __init__(self, source: TextSource, on_bad_row: OnBadRow = "error", limit: int | None = None) -> None:
        hint = "--data.test_sources.NAME.max_tokens 512."
        require(source.max_tokens >= LEAST, "2 tokens or more", source.max_tokens, "max_tokens of a text", hint)
        super().__init__(source, on_bad_row, limit)
        self.source = source

    @property
    def documents(self) -> list[Document]:
        """All documents, in the source's order.

        Raises:
            DataError: A row holds no text under ``error``, or there are fewer than two documents.
        """
        return self.items

    @property
    def few(self) -> str:
        return self.source.more

    def rows(self) -> Iterator[RawRow]:
        return self.source.documents()

    def fault(self, values: Mapping[str, Any]) -> str | None:
        if "messages" in values:
            return messages_fault(values["messages"])
        fault = text_fault(values.get("text"))
        return fault and f"the text {fault}"

    def key(self, values: Mapping[str, Any]) -> str:
        return text_hash(_said(values))

    def item(self, row: RawRow, identifier: str, key: str) -> Document:
        return Document(_said(row.values), identifier, key, row.where, tuple(row.values.get("messages", ())))

    def encode(self, tokenizer: Any, item: Document, context: int) -> EncodedDocument | BadRow:
        return encoded_document(tokenizer, item, min(self.source.max_tokens, context))

    def counts(self, made: list[EncodedDocument]) -> dict[str, Any]:
        sizes = {"documents": len(made), "tokens_scored": sum(one.scored for one in made)}
        return sizes | {"longest": max(len(one.ids_S) for one in made), "sha256": tokens_hash(made)}


def encoded_document(tokenizer: Any, item: Document, most: int | None = None) -> EncodedDocument | BadRow:
    """Return a document as tokens, or why there is nothing to score in it.

    Of plain text the second half is scored, of a conversation what the assistant wrote.

    Args:
        tokenizer: The model's tokenizer.
        item: The document.
        most: It is cut at so many tokens.
    """
    if item.messages:
        try:
            ids, written = conversation_tokens(tokenizer, item.messages)
        except ValueError as fault:
            return BadRow(item.where, str(fault))
        scored_S = torch.tensor(written, dtype=torch.bool)[:most]
        scored_S[:1] = False  # none predicts the first
        if not scored_S.any():
            return BadRow(item.where, f"nothing the assistant wrote is among its first {len(scored_S)} tokens")
        return EncodedDocument(item, torch.tensor(ids[:most], dtype=torch.int32), scored_S)
    ids = text_tokens(tokenizer, item.text)[:most]
    if len(ids) < LEAST:
        return BadRow(item.where, "a single token, which none predicts")
    return EncodedDocument(item, torch.tensor(ids, dtype=torch.int32), second_half(len(ids)))


def _said(values: Mapping[str, Any]) -> str:
    if "messages" not in values:
        return str(values["text"])
    return "\n".join(f"{one['role']}: {one['content']}" for one in values["messages"])


def tokens_hash(documents: list[EncodedDocument]) -> str:
    """Return the sha256 over ids and tokens of documents, in order."""
    digest = hashlib.sha256()
    for one in documents:
        digest.update(one.document.id.encode() + b"\t" + one.ids_S.numpy().tobytes() + b"\n")
    return digest.hexdigest()
