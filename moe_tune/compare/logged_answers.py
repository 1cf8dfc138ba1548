"""What a log of another program says of one answer, whatever the log's form, and the checks that both forms share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError

WORDS = {"true": True, "yes": True, "right": True, "correct": True, "1": True, "1.0": True} | {
    "false": False, "no": False, "wrong": False, "incorrect": False, "0": False, "0.0": False,
}  # fmt: skip
SHOWN = 3
"""Places that are named."""


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One answer of a log.

    Attributes:
        where: The place a person can find it again.
        right: Whether it is the right one, where the log says so itself.
        log_probs: The log-probability of each choice, in the order of the choices; empty where there are none.
        given: The answer that was given: a letter, an index from 0 or a choice's text; ``None`` where that is not told.
        gold: The index of the right choice, where the log has it beside the question.
        prompt: What was asked, in whole; empty where that is not told.
    """

    where: str
    right: bool | None = None
    log_probs: tuple[float, ...] = ()
    given: Any = None
    gold: int | None = None
    prompt: str = ""


def truth_of(cell: Any) -> bool | None:
    """Return what a cell says of right and wrong; ``None`` if it is neither.

    Example:
        >>> truth_of(1.0), truth_of("False"), truth_of(0.5)
        (True, False, None)
    """
    return WORDS.get(str(cell).strip().lower())


def numbers_of(cells: Any) -> tuple[float, ...]:
    """Return a list of numbers, or of their texts, as numbers; nothing if one of them is none.

    Example:
        >>> numbers_of(["-0.1", -2]), numbers_of(["A"])
        ((-0.1, -2.0), ())
    """
    if not isinstance(cells, list | tuple):
        return ()
    try:
        found = tuple(float(one) for one in cells)
    except (TypeError, ValueError):
        return ()
    return () if any(one != one for one in found) else found


def refuse_contradictions(file: Path, wrong: Sequence[str], rows: int, what: str, said: str) -> None:
    """Refuse a log whose own word on right and wrong is not what its answers say.

    Args:
        file: The log.
        wrong: The places where they differ.
        rows: How many rows it has.
        what: The column that says right and wrong.
        said: What it should say.

    Raises:
        DataError: There are such places.
    """
    if wrong:
        more = ", ..." if len(wrong) > SHOWN else ""
        raise DataError(
            f"expected {what} to say whether {said} but got {len(wrong):,} of {rows:,} rows that say otherwise "
            f"({', '.join(wrong[:SHOWN])}{more}; {file}). "
            "Hint: the file was changed after it was written, or its columns are of two models; write it again."
        )
