"""A bar on the terminal, and nowhere else."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def with_bar(steps: Iterable[T], name: str) -> Iterator[T]:
    """Yield the steps under a bar that goes when it is full; without one where standard error is no terminal.

    Args:
        steps: What is done one after the other.
        name: What stands before the bar.
    """
    if not sys.stderr.isatty():
        yield from steps
        return
    # A stream of its own: W&B copies what is written to sys.stderr into a log, in which a bar is a heap of codes.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as screen:
        yield from track(steps, name, console=Console(file=screen), transient=True)
