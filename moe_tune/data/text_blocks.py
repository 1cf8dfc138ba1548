"""The documents that are trained on: split by what they say, cleared of copies, and cut into blocks."""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from moe_tune.base.errors import ConfigError, DataError, require
from moe_tune.data.text_batching import Document, EncodedDocument
from moe_tune.data.texts import LEAST, Texts, encoded_document, tokens_hash
from moe_tune.data.training_text import TrainingText
from moe_tune.data.validation import BadRow, OnBadRow

HELD_OUT = 10
"""One document of so many is a validation document: that whose content hash says so."""
Split = Literal["train", "validation"]


class TextBlocks(Texts):
    """The documents of a text to train on, as blocks.

    One in ten is a validation document, by its content hash, so that a copy is never in the other split. A training
    document that is a validation document but for case and white space, or is among texts that are tested, is left out.

    Args:
        text: What the configuration says of it.
        on_bad_row: ``error`` stops at rows that hold no text; ``drop`` leaves them out and records them.
        tested: Texts that are tested after training.

    Raises:
        ConfigError: A number is out of range.
    """

    option = "data.text.source"

    def __init__(self, text: TrainingText, on_bad_row: OnBadRow = "error", tested: Iterable[Texts] = ()) -> None:
        require(text.block >= LEAST, "2 tokens or more", text.block, "data.text.block", "512 is usual.")
        finite = 0 < text.weight < float("inf")
        require(finite, "a finite factor above 0", text.weight, "data.text.weight", "1.0 weighs text as the quiz.")
        super().__init__(text.source, on_bad_row)
        self.text, self.tested = text, tuple(tested)
        self._splits: dict[Split, list[EncodedDocument]] | None = None
        self._of: tuple[Any, int] | None = None

    def encode(self, tokenizer: Any, item: Document, context: int) -> EncodedDocument | BadRow:
        """Return a document as all of its tokens: blocks are cut later."""
        encoded = encoded_document(tokenizer, item)
        if isinstance(encoded, BadRow) or item.messages:
            return encoded
        scored_S = encoded.scored_S.clone()
        scored_S[1:] = True  # nothing is prompt where text is learned from
        return replace(encoded, scored_S=scored_S)

    def blocks(self, split: Split, tokenizer: Any, context: int) -> list[EncodedDocument]:
        """Return the blocks of a split, in the order of its documents; one begins with the last token of that before.

        So every token is scored once but the first of its document.

        Raises:
            ConfigError: Blocks are longer than the model's context.
            DataError: A split has no document.
        """
        if self._splits is None or self._of != (tokenizer, context):
            if self.text.block > context:
                raise ConfigError(
                    f"expected blocks of at most {context} tokens, the model's context, but got {self.text.block} "
                    f"(data.text.block). Hint: --data.text.block {context}."
                )
            parts = self._parted(self.encoded(tokenizer, context))
            self._splits = {split: [part for one in parts[split] for part in self._cut(one)] for split in parts}
            self._of = (tokenizer, context)
        return self._splits[split]

    def counts(self, made: list[EncodedDocument]) -> dict[str, Any]:
        """Return the sizes of the splits."""
        sizes: dict[str, Any] = {"documents": len(made), "sha256": tokens_hash(made), "block": self.text.block}
        for split, blocks in (self._splits or {}).items():
            documents = len({one.document.id for one in blocks})
            sizes[split] = {"documents": documents, "blocks": len(blocks), "tokens": sum(one.scored for one in blocks)}
        return sizes

    def _parted(self, made: list[EncodedDocument]) -> dict[Split, list[EncodedDocument]]:
        held = [one for one in made if is_held_out(one.document)]
        rest = [one for one in made if not is_held_out(one.document)]
        known = {alike(one.document) for one in held}
        elsewhere = {alike(one) for texts in self.tested for one in texts.documents}
        train = [one for one in rest if alike(one.document) not in known | elsewhere]
        for found, where in ((known, "validation"), (elsewhere, "test")):
            if removed := sum(alike(one.document) in found for one in rest):
                self._said[
                    f"{removed} of {len(rest)} training documents are in {where} too (whatever their case and white "
                    "space): removed"
                ] = None
        held = [one for one in held if alike(one.document) not in elsewhere]
        if not train or not held:
            few = f"{len(train)} and {len(held)} of {len(made)}"
            if len({alike(one.document) for one in made}) == 1:
                few = f"{len(made)} copies of one document"
            raise DataError(
                f"expected documents to train on and to validate with but got {few}{self._left_out} ({self._place}). "
                f"Hint: one in {HELD_OUT} is a validation document, by a hash of its text: {self.source.more}"
            )
        return {"train": train, "validation": held}

    def _cut(self, one: EncodedDocument) -> Iterable[EncodedDocument]:
        for start in range(0, len(one.ids_S) - 1, self.text.block):
            part = slice(start, start + self.text.block + 1)
            scored_S = one.scored_S[part].clone()
            scored_S[0] = False  # the block before has scored it
            if scored_S.any():
                yield EncodedDocument(one.document, one.ids_S[part], scored_S)


def is_held_out(document: Document) -> bool:
    """Return whether a document is a validation document, by its content hash."""
    return int(document.content_hash, 16) % HELD_OUT == 0


def alike(document: Document) -> str:
    """Return a hash that documents share which differ in case and white space alone."""
    text = " ".join(unicodedata.normalize("NFKC", document.text).casefold().split())
    return hashlib.sha256(text.encode()).hexdigest()
