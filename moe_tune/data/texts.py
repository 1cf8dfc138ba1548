"""The documents of a text source: read, checked, cut and encoded, each when first asked for."""

import hashlib
from collections import Counter
from functools import cached_property
from typing import Any

import torch

from moe_tune.base.errors import DataError, require
from moe_tune.base.progress import with_bar
from moe_tune.data.encoding import text_tokens
from moe_tune.data.question import text_hash
from moe_tune.data.splits import source_arguments
from moe_tune.data.text_batching import Document, EncodedDocument
from moe_tune.data.text_source import TextSource
from moe_tune.data.validation import BadRow, OnBadRow, bad_rows_message, drop_list_hash

FEWEST = 2
"""Documents there have to be: an interval over one cannot be had. And tokens of each: one predicts the other."""
UNKNOWN = 0.01
"""The share of tokens the tokenizer does not know from which on it is said."""


class Texts:
    """The documents of a text source.

    Args:
        source: Where they come from.
        on_bad_row: ``error`` stops at rows that hold no text; ``drop`` leaves them out and records them.
        limit: At most so many documents: those with the smallest content hashes; ``None`` takes all.

    Raises:
        ConfigError: ``max_tokens`` of the source is below 2.
    """

    def __init__(self, source: TextSource, on_bad_row: OnBadRow = "error", limit: int | None = None) -> None:
        hint = "--data.test_sources.NAME.max_tokens 512."
        require(source.max_tokens >= FEWEST, "2 tokens or more", source.max_tokens, "max_tokens of a text", hint)
        self.source, self.limit, self.on_bad_row = source, limit, on_bad_row
        self._empty: list[BadRow] = []
        self._short: list[BadRow] = []
        self._said: dict[str, None] = {}
        self._encoded: tuple[Any, int, list[EncodedDocument]] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was recognised and left out so far, a line each."""
        return (*self.source.notes, *self._said)

    @property
    def dropped(self) -> list[BadRow]:
        """Rows that were left out so far."""
        return [*self._empty, *self._short]

    @cached_property
    def documents(self) -> list[Document]:
        """All documents, in the source's order.

        Raises:
            DataError: A row holds no text under ``error``, or there are fewer than two documents.
        """
        seen: Counter[str] = Counter()
        found: list[Document] = []
        for row in self.source.documents():
            text = row.values.get("text")
            if row.fault or not isinstance(text, str) or not text.strip():
                self._empty.append(BadRow(row.where, row.fault or "no text"))
                continue
            key = text_hash(text)
            found.append(Document(text, f"{key}-{seen[key]}" if seen[key] else key, key, row.where))
            seen[key] += 1
        self._refuse_bad()
        if self.limit is not None and len(found) > self.limit:
            chosen = {one.id for one in sorted(found, key=lambda one: (one.content_hash, one.id))[: self.limit]}
            found = [one for one in found if one.id in chosen]
        return self._enough(found)

    def encoded(self, tokenizer: Any, context: int) -> list[EncodedDocument]:
        """Return the documents as tokens, cut at the source's ``max_tokens`` and the model's context.

        Raises:
            DataError: A document has a single token under ``error``, or fewer than two are left.
        """
        if self._encoded is None or self._encoded[0] is not tokenizer or self._encoded[1] != context:
            most, made, self._short = min(self.source.max_tokens, context), [], []
            for one in with_bar(self.documents, "documents"):
                ids_S = torch.tensor(text_tokens(tokenizer, one.text)[:most], dtype=torch.int32)
                if len(ids_S) < FEWEST:
                    self._short.append(BadRow(one.where, "a single token, which none predicts"))
                else:
                    made.append(EncodedDocument(one, ids_S))
            self._refuse_bad()
            self._encoded = (tokenizer, context, self._enough(made))
            self._note_unknown(tokenizer.unk_token_id)
        return self._encoded[2]

    def manifest(self) -> dict[str, Any]:
        """Return what was read so far, as plain values for JSON; ``sha256`` is over all tokens."""
        about = {
            "class": type(self.source).__name__,
            "arguments": source_arguments(self.source),
            "revision": self.source.revision(),
        }
        read: dict[str, Any] = {"source": about, "limit": self.limit, "notes": list(self.notes)}
        read |= {"dropped": [{"where": one.where, "reason": one.reason} for one in self.dropped]}
        read |= {"dropped_sha256": drop_list_hash(self.dropped)}
        if self._encoded is not None:
            made = self._encoded[2]
            read |= {"documents": len(made), "tokens_scored": sum(one.scored for one in made)}
            read |= {"longest": max(len(one.ids_S) for one in made), "sha256": tokens_hash(made)}
        return read

    def _refuse_bad(self) -> None:
        if self.dropped and self.on_bad_row == "error":
            raise DataError(bad_rows_message(self.dropped, f"documents of {self.source.revision()}"))
        if self.dropped:
            self._said[f"{len(self.dropped)} documents left out, which hold no text to score"] = None

    def _enough(self, found: list[Any]) -> list[Any]:
        if len(found) < FEWEST:
            raise DataError(
                f"expected at least {FEWEST} documents but got {len(found)} ({self.source.revision()}). "
                "Hint: blank lines part the documents of a single .txt file; an interval over one cannot be had."
            )
        return found

    def _note_unknown(self, unknown: int | None) -> None:
        assert self._encoded is not None
        every = torch.cat([one.ids_S for one in self._encoded[2]])
        share = 0.0 if unknown is None else float((every == unknown).double().mean())
        if share >= UNKNOWN:
            self._said[f"{100 * share:.0f} % of the text's tokens are unknown to the tokenizer"] = None


def tokens_hash(documents: list[EncodedDocument]) -> str:
    """Return the sha256 over ids and tokens of documents, in order."""
    digest = hashlib.sha256()
    for one in documents:
        digest.update(one.document.id.encode() + b"\t" + one.ids_S.numpy().tobytes() + b"\n")
    return digest.hexdigest()
