"""Rows inside rows: lm-eval's samples, and MMLU's auxiliary split."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

WRAPPERS = {"doc": "lm-eval samples, ", "train": ""}
"""What the files are whose rows are held by a column of this name."""
SAMPLES = {"doc_id", "doc", "target", "arguments"}


def wrapper_of(columns: Iterable[str]) -> str | None:
    """Return the column that holds the whole row, by all columns of a file; ``None`` where the row is the row.

    Example:
        >>> wrapper_of(["doc_id", "doc", "target", "arguments", "resps"]), wrapper_of(["train"])
        ('doc', 'train')
    """
    there = set(columns)
    if there == {"train"}:
        return "train"
    return "doc" if there >= SAMPLES else None


def unwrapped(rows: Iterable[tuple[str, Mapping[str, Any]]], column: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and inner row; of a document that several filters were applied to, once."""
    seen = set()
    for where, row in rows:
        if (number := row.get("doc_id")) is not None:
            if number in seen:
                continue
            seen.add(number)
        inner = row.get(column)
        yield where, inner if isinstance(inner, Mapping) else {}
