"""Cells to choices and answers: what all layouts share."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from moe_tune.data.question import LETTERS, text_hash


def as_text(cell: Any) -> Any:
    """Return a whole number as its text; a truth value, and whatever else is no whole number, as it is.

    Example:
        >>> as_text(7), as_text("seven"), as_text(True)
        ('7', 'seven', True)
    """
    return str(cell) if type(cell) is int else cell


def choices_of(cell: Any) -> tuple[Any, list[str] | None]:
    """Return the choices of a cell and their labels, where it has any; what is no list is returned as it is.

    Example:
        >>> choices_of({"text": ["one", "two"], "label": ["1", "2"]})
        (['one', 'two'], ['1', '2'])
        >>> choices_of({"A": "one", "B": "two"})
        (['one', 'two'], ['A', 'B'])
        >>> choices_of("['one', 'two']"), choices_of([1, 2])
        ((['one', 'two'], None), (['1', '2'], None))
    """
    if isinstance(cell, Mapping) and {"text", "label"} <= cell.keys():
        return _texts(cell["text"]), [str(one) for one in cell["label"] or ()]
    if isinstance(cell, Mapping) and list(cell) == list(LETTERS[: len(cell)]):
        kept = filled(list(cell.values()))
        return kept, list(LETTERS[: len(kept)])
    if isinstance(cell, str) and cell.strip().startswith("["):  # a list in a cell of a CSV file
        try:
            return _texts(ast.literal_eval(cell.strip())), None
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return cell, None
    return _texts(cell), None


def _texts(cells: Any) -> Any:
    return [as_text(one) for one in cells] if isinstance(cells, list) else cells


def filled(cells: Sequence[Any]) -> list[Any]:
    """Return cells as texts, without the empty ones at the end: a question with fewer choices than there are columns.

    Example:
        >>> filled(["one", "", "three", "", None])
        ['one', '', 'three']
    """
    kept = [as_text(one) for one in cells]
    while kept and (kept[-1] is None or (isinstance(kept[-1], str) and not kept[-1].strip())):
        kept.pop()
    return kept


def answer_of(cell: Any, choices: Any, labels: Sequence[str] | None = None, counted_from: int | None = None) -> Any:
    """Return an answer as index from 0 or capital letter; what is none of both is returned as it is.

    A label of the choices decides; else a letter in either case, a whole number (1.0 is one), or the text of exactly
    one choice.

    Example:
        >>> answer_of("c", ["x", "y", "z"]), answer_of("3", ["x", "y", "z"], ["1", "2", "3"]), answer_of("2", "xyz")
        ('C', 'C', 2)
        >>> answer_of(3.0, ["x", "y", "z"], counted_from=1), answer_of("Lima", ["Quito", "Lima"])
        (2, 'B')
    """
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if labels is not None:
        wanted = str(cell).strip().lower()
        places = [place for place, label in enumerate(labels) if label.strip().lower() == wanted]
        return LETTERS[places[0]] if len(places) == 1 and places[0] < len(LETTERS) else cell
    if type(cell) is int:
        return cell - (counted_from or 0)
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if len(text) == 1 and text.upper() in LETTERS:
        return text.upper()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text) - (counted_from or 0)
    same = [place for place, choice in enumerate(choices) if choice == cell] if isinstance(choices, list) else []
    return LETTERS[same[0]] if len(same) == 1 and same[0] < len(LETTERS) else cell


def shuffled(stem: Any, choices: list[Any], right: int) -> tuple[list[Any], int]:
    """Return choices in an order that follows from the question's content alone, and where the right one is now.

    Formula: choice i goes by ``hash(hash(stem, choices), i)``, for layouts whose right answer always comes first.
    """
    key = text_hash(*(str(one) for one in (stem, *choices)))
    order = sorted(range(len(choices)), key=lambda place: text_hash(key, str(place)))
    return [choices[place] for place in order], order.index(right)
