"""The answers in a table: which column says right or wrong, or how probable each choice was."""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError, did_you_mean
from moe_tune.compare.logged_answers import LoggedAnswer, numbers_of, truth_of
from moe_tune.data.formats.format import fold
from moe_tune.data.raw_tables import DELIMITERS, RawTable, read_cells, read_table

LOG_PROBS = ("log_probs", "logprobs", "log_probabilities", "log_likelihoods", "loglikelihoods", "lls", "logits")
"""What a column may be called that holds a list with a number for each choice."""
EACH = re.compile(r"(?:log_?probs?|log_?likelihoods?|lls?|logits?|lp)_(?P<letter>[a-p])")
"""What a column may be called that holds the number of one choice."""
RIGHT = ("correct", "is_correct", "right", "acc", "accuracy", "exact_match", "score")
"""What a column may be called that says right or wrong."""
GIVEN = ("prediction", "predicted", "pred", "model_answer")
"""What a column may be called that holds the answer that was given."""


def read_rows(file: Path) -> RawTable:
    """Return a table by its named columns, whatever its format; a CSV or TSV file has a header.

    Raises:
        DataError: It is damaged, or names a column twice.
    """
    if file.suffix not in DELIMITERS:
        read = read_table(file)
        return RawTable(file, read.columns, list(read.rows))
    cells = read_cells(file, least=2)
    header = next(cells, ("", list[str]()))[1]
    folded = [fold(one) for one in header]
    if twice := sorted({name for name in folded if name and folded.count(name) > 1}):
        raise DataError(f"expected each column once but got {twice} twice ({file}:1). Hint: rename one.")
    return RawTable(file, tuple(header), [(where, dict(zip(header, one, strict=True))) for where, one in cells])


def tabulated_answers(table: RawTable) -> list[LoggedAnswer]:
    """Return the answers of a table.

    Raises:
        DataError: No column says right or wrong or how probable the choices were, or a cell of it cannot be read.
    """
    names = {fold(name): name for name in reversed(table.columns)}
    listed, right, given = (_column(names, known) for known in (LOG_PROBS, RIGHT, GIVEN))
    each = sorted((match["letter"], name) for folded, name in names.items() if (match := EACH.fullmatch(folded)))
    if listed is None and right is None and given is None and not each:
        raise DataError(
            f"expected a column of correctness or log-probabilities but got {list(table.columns)} ({table.file}). "
            f"Hint: correct (1 or 0), or log_probs (a list, one number for each choice). "
            f"{did_you_mean(_closest(table.columns), (RIGHT[0], LOG_PROBS[0], GIVEN[0]))}"
        )
    found = []
    for where, row in table.rows:
        scores: tuple[float, ...] = ()
        if listed is not None or each:
            cells = _list(row.get(listed)) if listed is not None else _filled([row.get(name) for _, name in each])
            scores = numbers_of(cells)
            if len(scores) < 2:
                raise _unreadable(listed or each[0][1], "a number for each choice", cells, where, table.file)
        said = None
        if right is not None and (said := truth_of(row.get(right))) is None:
            raise _unreadable(right, "1 or 0, or true or false", row.get(right), where, table.file)
        found.append(LoggedAnswer(where, said, scores, row.get(given) if given is not None else None))
    return found


def _column(names: Mapping[str, str], known: Iterable[str]) -> str | None:
    return next((names[one] for one in known if one in names), None)


def _closest(columns: Iterable[str]) -> str:
    return max(
        columns, key=lambda name: any(part in fold(name) for part in ("corr", "log", "prob", "pred")), default=""
    )


def _list(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    for parse in (json.loads, ast.literal_eval):  # a list in a cell of a CSV file
        try:
            return parse(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return cell


def _filled(cells: list[Any]) -> list[Any]:
    while cells and (cells[-1] is None or cells[-1] != cells[-1] or not str(cells[-1]).strip()):
        cells.pop()  # a question with fewer choices than there are columns
    return cells


def _unreadable(column: str, expected: str, cell: Any, where: str, file: Path) -> DataError:
    return DataError(
        f"expected {expected} in the column {column!r} but got {str(cell)[:40]!r} ({file}, {where}). "
        "Hint: every question needs it; leave out no cell."
    )
