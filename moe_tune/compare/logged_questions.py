"""The questions of a log, told by their content as the data module tells them, so that they agree with a run's."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.data.folder_layout import SplitFile
from moe_tune.data.formats.format import LeftOutError, Reading, column_of, fold
from moe_tune.data.formats.values import answer_of
from moe_tune.data.formats.wrapped import unwrapped, wrapper_of
from moe_tune.data.question import LETTERS, text_hash
from moe_tune.data.raw_tables import RawTable
from moe_tune.data.recognised import NO_SUBJECT, QuestionReader
from moe_tune.data.source import RawRow
from moe_tune.data.validation import ParsedRow, contradictions, parsed_row, row_fault

STEMS = ("question", "prompt", "input")
"""What the column of questions may be called where no layout is known; ``question`` with its other names."""
COUNTS = frozenset(range(2, len(LETTERS) + 1))


@dataclass(frozen=True, slots=True)
class LoggedQuestion:
    """One question of a log.

    Attributes:
        subject: Its subject, ``general_knowledge`` where none is told.
        stem: Its text without the choices.
        choices: The choices; empty where the log has none.
        gold: The place of the right choice; ``None`` where the log does not tell.
        content_hash: The hash of stem and choices, as the data module's.
    """

    subject: str
    stem: str
    choices: tuple[str, ...]
    gold: int | None
    content_hash: str

    @property
    def asked(self) -> str:
        """The hash of the stem alone, for logs without choices."""
        return text_hash(self.stem)


def logged_questions(table: RawTable, file: SplitFile) -> tuple[dict[str, LoggedQuestion], str]:
    """Return the questions of a log by place, and which rows are left out as the data module leaves them out.

    Where the columns are of no known layout, a question is its text alone, or the whole of lm-eval's document.

    Raises:
        DataError: There is no column of questions, a table's row is no question, or its answers can be read in two
            ways.
    """
    wrapper = wrapper_of(table.columns)
    rows = list(unwrapped(table.rows, wrapper) if wrapper else table.rows)
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    folded = [fold(name) for name in columns]
    reader = QuestionReader(Reading(answers_from=0 if wrapper else None))
    answered = reader.layout(folded) is not None
    if not answered and column_of("answer", folded) is None and reader.layout([*folded, "answer"]) is not None:
        rows = [(where, {**row, "answer": LETTERS[0]}) for where, row in rows]  # choices, and no right one
        columns = [*columns, "answer"]
    elif not answered:
        return _by_text(rows, columns, file, wrapped=wrapper is not None), ""
    good: dict[str, ParsedRow] = {}
    reasons: Counter[str] = Counter()
    for one in _read(reader, RawTable(table.file, tuple(columns), rows), file):
        fault = (one.fault or row_fault(one.values, COUNTS)) if isinstance(one, RawRow) else str(one)
        if isinstance(one, RawRow) and fault is None:
            good[one.where] = parsed_row(one.values)
        elif isinstance(one, RawRow) and wrapper is None:
            raise DataError(
                f"expected a question but got: {fault} ({file.path}, {one.where}). "
                "Hint: choices is a list of texts, answer a letter or an index from 0."
            )
        else:
            reasons[str(fault)] += 1
    if not good and wrapper is not None:  # a layout's names, but other things in them
        return _by_text(rows, columns, file, wrapped=True), ""
    places = list(good)
    for index in contradictions(list(good.values())) if answered else ():
        del good[places[index]]
        reasons["the same question has another answer"] += 1
    found = {
        where: LoggedQuestion(subject, stem, choices, gold if answered else None, text_hash(stem, *choices))
        for where, (subject, stem, choices, gold) in good.items()
    }
    return found, ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())


def _read(reader: QuestionReader, table: RawTable, file: SplitFile) -> list[RawRow | LeftOutError]:
    try:
        return list(reader.table(table, file))
    except DataError as fault:  # the reader's remedy is an option of the data module
        said = str(fault).partition(" Hint:")[0]
        raise DataError(f"{said} Hint: write answers as letters, A for the first choice.") from fault


def _by_text(
    rows: list[tuple[str, Mapping[str, Any]]], columns: list[str], file: SplitFile, *, wrapped: bool
) -> dict[str, LoggedQuestion]:
    names = {fold(name): name for name in reversed(columns)}
    stem = next((found for one in STEMS if (found := column_of(one, names)) is not None), None)
    subject, answer = column_of("subject", names), column_of("answer", names)
    if stem is None and not wrapped:
        raise DataError(
            f"expected a column of questions but got {columns} ({file.path}). Hint: name it question; with choices and "
            f"answer beside it, it agrees with runs. {did_you_mean(columns[0] if columns else '', STEMS)}"
        )
    told: dict[str, LoggedQuestion] = {}
    for where, row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        if not wrapped:
            cell = row.get(names[str(stem)])
            if not isinstance(cell, str | int | float) or not str(cell).strip():
                raise DataError(
                    f"expected a question but got {cell!r} ({file.path}, {where}). Hint: leave out no cell of {stem}."
                )
            text = str(cell)
        topic = str(row.get(names[subject]) or NO_SUBJECT) if subject else file.subject or NO_SUBJECT
        gold = place_of(row.get(names[answer])) if answer and not wrapped else None
        told[where] = LoggedQuestion(topic, text, (), gold, text_hash(text))
    return told


def place_of(cell: Any, choices: tuple[str, ...] = ()) -> int | None:
    """Return the place of an answer that is a letter, an index from 0 or a choice's text; ``None`` for others.

    Example:
        >>> place_of("b"), place_of("1"), place_of("Lima", ("Quito", "Lima")), place_of("Lima")
        (1, 1, 1, None)
    """
    read = answer_of(cell, list(choices)) if cell is not None else None
    if isinstance(read, str):
        return LETTERS.index(read) if len(read) == 1 and read in LETTERS else None
    return read if type(read) is int and 0 <= read < len(LETTERS) else None
