"""What texts and short answers have in common: read, checked, sampled and encoded, each when first asked for."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from moe_tune.base.errors import DataError
from moe_tune.base.progress import with_bar
from moe_tune.data.source import RawRow, Source
from moe_tune.data.splits import source_arguments
from moe_tune.data.validation import BadRow, OnBadRow, bad_rows_message, by_reason, drop_list_hash

FEWEST = 2
"""Items there have to be: an interval over one cannot be had."""

UNKNOWN = 0.01
"""The share of tokens the tokenizer does not know from which on it is said."""


class Tokens(Protocol):
    """What has tokens."""

    @property
    def ids_S(self) -> Tensor:
        """Its tokens."""


Item = TypeVar("Item")
Encoded = TypeVar("Encoded", bound=Tokens)


class SourceItems(ABC, Generic[Item, Encoded]):
    """The items of a source that is tested beside the quiz.

    Args:
        source: Where they come from.
        on_bad_row: ``error`` stops at rows that hold no item; ``drop`` leaves them out and records them.
        limit: At most so many items: those with the smallest content hashes; ``None`` takes all.

    Attributes:
        noun: What items are called.
        lacking: What is said of those that are left out.
        option: Where the configuration names the source.
    """

    noun: ClassVar[str]
    lacking: ClassVar[str]
    option: ClassVar[str] = "data.test_sources.NAME"

    def __init__(self, source: Source, on_bad_row: OnBadRow = "error", limit: int | None = None) -> None:
        self.limit, self.on_bad_row = limit, on_bad_row
        self._about = source
        self._unread: list[BadRow] = []
        self._unfit: list[BadRow] = []
        self._said: dict[str, None] = {}
        self._made: tuple[Any, int, list[Encoded]] | None = None

    @property
    @abstractmethod
    def few(self) -> str:
        """The hint where there are too few of them."""

    @abstractmethod
    def rows(self) -> Iterator[RawRow]:
        """Yield the rows of the source."""

    @abstractmethod
    def fault(self, values: Mapping[str, Any]) -> str | None:
        """Return why a row is no item."""

    @abstractmethod
    def key(self, values: Mapping[str, Any]) -> str:
        """Return the content hash of a row."""

    @abstractmethod
    def item(self, row: RawRow, identifier: str, key: str) -> Item:
        """Return the item that a row is, named by its content hash and an ordinal of repeats."""

    @abstractmethod
    def encode(self, tokenizer: Any, item: Item, context: int) -> Encoded | BadRow:
        """Return an item as tokens, or why it cannot be asked."""

    @abstractmethod
    def counts(self, made: list[Encoded]) -> dict[str, Any]:
        """Return what the manifest tells of the encoded items."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was recognised and left out so far, a line each."""
        return (*self._about.notes, *self._said)

    @property
    def dropped(self) -> list[BadRow]:
        """Rows that were left out so far."""
        return [*self._unread, *self._unfit]

    @cached_property
    def items(self) -> list[Item]:
        """All items, in the source's order.

        Raises:
            DataError: A row holds none under ``error``, or there are fewer than two.
        """
        seen: Counter[str] = Counter()
        found: list[tuple[str, str, Item]] = []
        for row in self.rows():
            if fault := row.fault or self.fault(row.values):
                self._unread.append(BadRow(row.where, fault))
                continue
            key = self.key(row.values)
            identifier = f"{key}-{seen[key]}" if seen[key] else key
            seen[key] += 1
            found.append((key, identifier, self.item(row, identifier, key)))
        self._refuse_bad()
        if self.limit is not None and len(found) > self.limit:
            chosen = {one[1] for one in sorted(found, key=lambda one: one[:2])[: self.limit]}
            found = [one for one in found if one[1] in chosen]
        return self._enough([one for _, _, one in found])

    def encoded(self, tokenizer: Any, context: int) -> list[Encoded]:
        """Return the items as tokens, for a model of a context of so many.

        Raises:
            DataError: One cannot be asked under ``error``, or fewer than two are left.
        """
        if self._made is None or self._made[0] is not tokenizer or self._made[1] != context:
            tried = [self.encode(tokenizer, one, context) for one in with_bar(self.items, self.noun)]
            self._unfit = [one for one in tried if isinstance(one, BadRow)]
            self._refuse_bad()
            self._made = (tokenizer, context, self._enough([one for one in tried if not isinstance(one, BadRow)]))
            self._note_unknown(tokenizer.unk_token_id)
        return self._made[2]

    def revision(self) -> str:
        """Return what the source says of its content."""
        return self._about.revision()

    def manifest(self) -> dict[str, Any]:
        """Return what was read so far, as plain values for JSON; ``sha256`` is over all tokens."""
        source = self._about
        about = {
            "class": type(source).__name__,
            "arguments": source_arguments(source),
            "revision": source.revision(),
        }
        read: dict[str, Any] = {"source": about, "limit": self.limit, "notes": list(self.notes)}
        read |= {"dropped": [{"where": one.where, "reason": one.reason} for one in self.dropped]}
        read |= {"dropped_sha256": drop_list_hash(self.dropped)}
        return read if self._made is None else read | self.counts(self._made[2])

    @property
    def _place(self) -> str:
        return f"{self.noun} of {self._about.described}, {self.option}"

    @property
    def _left_out(self) -> str:
        return f", {len(self.dropped)} left out ({by_reason(self.dropped)})," if self.dropped else ""

    def _refuse_bad(self) -> None:
        if self.dropped and self.on_bad_row == "error":
            raise DataError(bad_rows_message(self.dropped, self._place))
        if self.dropped:
            reasons = by_reason(self.dropped)
            self._said[f"{len(self.dropped)} {self.noun} left out, which {self.lacking}: {reasons}"] = None

    def _note_unknown(self, unknown: int | None) -> None:
        assert self._made is not None
        every = torch.cat([one.ids_S for one in self._made[2]])
        share = 0.0 if unknown is None else float((every == unknown).double().mean())
        if share >= UNKNOWN:
            self._said[f"{100 * share:.0f} % of the tokens of the {self.noun} are unknown to the tokenizer"] = None

    def _enough(self, found: list[Any]) -> list[Any]:
        if len(found) < FEWEST:
            raise DataError(
                f"expected at least {FEWEST} {self.noun} but got {len(found)}{self._left_out} ({self._place}). "
                f"Hint: {self.few} An interval over one cannot be had."
            )
        return found
