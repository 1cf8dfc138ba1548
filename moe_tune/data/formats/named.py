"""Columns that the user names."""

from collections.abc import Mapping
from typing import Any

from moe_tune.base.errors import ConfigError, DataError, did_you_mean
from moe_tune.data.formats.format import Reading, Row, fold
from moe_tune.data.formats.values import answer_of, choices_of, filled, shuffled
from moe_tune.data.question import LETTERS

ROLES = ("question", "choices", "answer", "subject")
CONSTANT = "="
"""A value that begins with it is the same for every row, and no column."""


class NamedColumns:
    """The layout that ``data.source.columns`` describes: a column or ``=constant`` by role.

    ``choices`` is one column (a list, or texts with labels) or a list of columns. With a constant answer the right
    choice stands in the same place in every row: choices are shuffled by each question's content hash.

    Args:
        columns: Column by role: ``question``, ``choices``, ``answer``, and ``subject`` if there is one.

    Raises:
        ConfigError: A role is missing or unknown, or a constant answer is no letter.
    """

    name = "the columns that were named"
    subject = None

    def __init__(self, columns: Mapping[str, str | list[str]]) -> None:
        unknown = sorted(set(columns) - set(ROLES))
        missing = [role for role in ROLES[:3] if role not in columns]
        if unknown or missing:
            hint = did_you_mean(unknown[0], ROLES) if unknown else "choices is one column, or a list of columns."
            raise ConfigError(
                f"expected a column for question, choices and answer but got {dict(columns)} (data.source.columns). "
                f"Hint: {hint}"
            )
        lists = sorted(role for role, column in columns.items() if isinstance(column, list) and role != "choices")
        if lists:
            raise ConfigError(
                f"expected one column for {lists[0]} but got a list (data.source.columns). Hint: name one."
            )
        self.columns = dict(columns)
        self.constant = self._constant_answer()
        self.note = "" if self.constant is None else "choices shuffled by each question's content hash"

    def _constant_answer(self) -> int | None:
        answer = str(self.columns["answer"])
        if not answer.startswith(CONSTANT):
            return None
        letter = answer.removeprefix(CONSTANT).strip().upper()
        if len(letter) != 1 or letter not in LETTERS:
            raise ConfigError(
                f"expected a letter as constant answer but got {answer!r} (data.source.columns). "
                "Hint: answer: =A where the right choice always comes first."
            )
        return LETTERS.index(letter)

    @property
    def names(self) -> list[str]:
        """The columns that have to be there."""
        every = [self.columns[role] for role in ROLES if role in self.columns]
        flat = [name for one in every for name in (one if isinstance(one, list) else [one])]
        return [name for name in flat if not name.startswith(CONSTANT)]

    def used(self, folded: Mapping[str, str], where: str) -> dict[str, str]:
        """Return the named columns.

        Raises:
            DataError: One is not there.
        """
        missing = [name for name in self.names if fold(name) not in folded]
        if missing:
            raise DataError(
                f"expected the column {missing[0]!r} but got {list(folded.values())} ({where}; data.source.columns). "
                f"Hint: {did_you_mean(missing[0], folded.values())}"
            )
        return {fold(name): fold(name) for name in self.names}

    def tells_subject(self, used: Mapping[str, str]) -> bool:
        """Return whether a row, or a constant, says what the subject is."""
        return "subject" in self.columns

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        """Return question, choices and answer of a row, and the subject where it is named."""

        def cell(name: str) -> Any:
            return name.removeprefix(CONSTANT) if name.startswith(CONSTANT) else row.get(fold(name))

        named, stem = self.columns["choices"], cell(str(self.columns["question"]))
        labels = None
        if isinstance(named, list):
            choices = filled([cell(one) for one in named])
        else:
            choices, labels = choices_of(cell(named))
        values = {"question": stem, "choices": choices}
        if "subject" in self.columns:
            values["subject"] = cell(str(self.columns["subject"]))
        if self.constant is None:
            given = cell(str(self.columns["answer"]))
            return {**values, "answer": answer_of(given, choices, labels, reading.answers_from)}
        if not isinstance(choices, list) or self.constant >= len(choices):
            return {**values, "answer": LETTERS[self.constant]}
        choices, right = shuffled(stem, choices, self.constant)
        return {**values, "choices": choices, "answer": LETTERS[right]}
