"""Attributes that are others for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give attributes of an object other values for as long as the context lasts.

    Example:
        >>> from types import SimpleNamespace
        >>> owner = SimpleNamespace(size=1)
        >>> with replaced(owner, size=2):
        ...     print(owner.size)
        2
        >>> owner.size
        1
    """
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
