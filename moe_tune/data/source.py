"""The contract of a source, and of one of questions: raw rows of a split, from wherever they live."""

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
        fault: Why it is no question, where its source knows; its values are not looked at then.
    """

    where: str
    values: dict[str, Any]
    fault: str | None = None


class Source(ABC):  # noqa: B024 - what each kind of source yields is the kind's own
    """What may be trained or tested on, of questions or of text."""

    def revision(self) -> str:
        """Return what pins the content: a commit, a package version, or a hash of the files."""
        return "unpinned"

    @property
    def described(self) -> str:
        """What a message about the content names: what pins it, and what a person knows it by."""
        return self.revision()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was recognised in what was read so far, and what was left out by design, a line each."""
        return ()


class QuestionSource(Source):
    """Where questions come from; a subclass reads rows, the shared validation makes questions of them.

    Attributes:
        choice_counts: How many choices a question of this source may have.
        declared_subjects: The subjects a row may name; ``None`` allows any.
        known_sizes: Published number of rows by split, checked and recorded (an error under ``data.official``).
        answers_from: What whole numbers as answers count from, where that is settled; ``None`` has it checked.
        same_origin_as: Subjects of training questions that were drawn from the same collections as this source, such
            as ``auxiliary``; after training on them its test questions are not out of distribution.
    """

    choice_counts: frozenset[int] = frozenset({4})
    declared_subjects: frozenset[str] | None = None
    known_sizes: dict[str, int] = {}  # noqa: RUF012
    answers_from: int | None = None
    same_origin_as: frozenset[str] = frozenset()

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
