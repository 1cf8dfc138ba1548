"""stdin, stdout and stderr as a program can rely on: there, and able to take any character."""

import io
import os
import sys
from contextlib import suppress

STREAMS = ("stdin", "stdout", "stderr")


def mend_streams() -> None:
    """Put the null device where a stream is closed, and let the others write what their encoding lacks in escapes.

    A closed stream's number would go to the next file that is opened, and what a library prints would end up in it.
    """
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quit_streams() -> None:
    """Let go of streams whose reader is gone, so that the interpreter does not complain of them when it ends."""
    for number, stream in enumerate((sys.stdout, sys.stderr), start=1):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
