"""Nested values as one line of a report."""

from collections.abc import Mapping
from typing import Any


def one_line(value: Any) -> str:
    """Return a value as text for a report, nested ones joined by commas.

    Example:
        >>> one_line({"torch": "2.13", "numpy": "2.4"})
        'torch 2.13, numpy 2.4'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "unknown" if value is None else f"{value:,}" if type(value) is int and value >= 10_000 else str(value)
