"""Importing without the garbage collector, which else takes a third of the time until a verb starts."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage while this is open, and let the collector pass over what is there when it closes.

    Thousands of modules are made of objects that stay until the end. The collector would look through them again and
    again while they come, and once more when the interpreter ends. Where nothing was left to import nothing is passed
    over; later objects are collected as ever.
    """
    on, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()
        if len(sys.modules) > before:
            gc.freeze()
