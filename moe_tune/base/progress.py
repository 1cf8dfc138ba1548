"""A bar on the terminal, and nowhere else."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


@contextmanager
def screen() -> Iterator[Console]:
    """Give the terminal behind standard error to draw on; a console that says nothing where there is none."""
    if not sys.stderr.isatty():
        yield Console(quiet=True)
        return
    # A stream of its own: W&B copies what is written to sys.stderr into a log, in which a bar is a heap of codes.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as stream:
        yield Console(file=stream)


def with_bar(steps: Iterable[T], name: str) -> Iterator[T]:
    """Yield the steps under a bar that goes when it is full; without one where standard error is no terminal.

    Args:
        steps: What is done one after the other.
        name: What stands before the bar.
    """
    with screen() as console:
        yield from track(steps, name, console=console, transient=True, disable=console.quiet)
