"""The contract of a question source: raw rows of a split, from wherever they live."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read, before validation.

    Args:
        where: The place a person can find it again, such as ``test.csv:17`` or ``anatomy/test[3]``.
        values: Column name to value: ``question``, ``subject``, ``choices`` and ``answer`` in MMLU's schema.
    """

    where: str
    values: dict[str, Any]


class QuestionSource(ABC):
    """Where questions come from; a subclass reads rows, the shared validation makes questions of them.

    Attributes:
        choice_counts: How many choices a question of this source may have.
        declared_subjects: The subjects a row may name; ``None`` allows any.
        known_sizes: Published number of rows by split, checked and recorded (an error under ``data.official``).
    """

    choice_counts: frozenset[int] = frozenset({4})
    declared_subjects: frozenset[str] | None = None
    known_sizes: dict[str, int] = {}  # noqa: RUF012

    @abstractmethod
    def rows(self, split: str) -> Iterator[RawRow]:
        """Yield the rows of a split in a stable order.

        Args:
            split: ``train``, ``validation``, ``test`` or ``dev`` (few-shot examples only); a source raises
                ``DataError`` with the splits it has for any other.
        """

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Return the splits this source holds."""

    def revision(self) -> str:
        """Return what pins the content: a commit, a package version, or a hash of the files."""
        return "unpinned"
