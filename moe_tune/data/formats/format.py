"""The contract of a layout of columns: how a row of it becomes question, subject, choices and answer."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ALIASES = {
    "question": ("stem", "query", "question_stem"),
    "answer": ("gold", "label"),
    "answer_index": ("answer_idx",),
    "category": ("subject", "topic"),
    "subject": ("category", "topic"),
}
"""Other names of a column, used where the first is not there."""

Row = Mapping[str, Any]
"""A row by folded column name."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are to be read.

    Args:
        columns: Column (or ``=constant``) by role, where the user names them.
        answers_from: What a whole number as answer counts from; ``None`` means 0, which is checked.
        corrected: Whether MMLU-Redux's rows with a wrong key are taken, with the corrected one.
    """

    columns: Mapping[str, str | list[str]] | None = None
    answers_from: int | None = None
    corrected: bool = False


class BadRowError(Exception):
    """A row contradicts itself; the text says how."""


class LeftOutError(Exception):
    """A row that the layout itself marks as not to be asked; the text says how."""


class QuestionFormat(ABC):
    """A layout of columns, such as MMLU-Pro's; found by its class, recognised by its columns.

    Names of columns are folded: lower case, without surrounding white space.

    Attributes:
        name: What people call it.
        columns: Columns it must have. Of several that fit, the one with most is taken.
        optional: Columns that are read where they are there.
        subject: The column of the subject, one of ``optional``; ``None`` where the layout has none.
        note: What is done to every row, for the line that says what was recognised.
    """

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ("subject",)
    subject: str | None = "subject"
    note: str = ""

    @abstractmethod
    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        """Return question, choices and answer (an index from 0 or a letter); ``changed`` says what was mended.

        Raises:
            BadRowError: The row contradicts itself.
            LeftOutError: The layout marks the row as not to be asked.
        """

    def fits(self, folded: Iterable[str]) -> bool:
        """Return whether a file with these columns is of this layout."""
        there = set(folded)
        return all(column_of(name, there) is not None for name in self.columns)

    def used(self, folded: Mapping[str, str], where: str) -> dict[str, str]:
        """Return the folded name in the file of each column that is read."""
        found = {name: column_of(name, folded) for name in (*self.columns, *self.optional)}
        return {name: column for name, column in found.items() if column is not None}

    def tells_subject(self, used: Mapping[str, str]) -> bool:
        """Return whether a row says what its subject is."""
        return self.subject in used


def fold(name: str) -> str:
    """Return a column's name without case and surrounding white space."""
    return name.strip().lower()


def column_of(name: str, there: Iterable[str]) -> str | None:
    """Return the column that plays a part under its name or another one; ``None`` if there is none.

    Example:
        >>> column_of("question", {"query", "choices"}), column_of("answer", {"query"})
        ('query', None)
    """
    known = set(there)
    return next((one for one in (name, *ALIASES.get(name, ())) if one in known), None)
