"""Waiting for what another thread or process does, as long as a busy machine may take."""

import time


def until(condition, seconds=120.0):
    """Wait until a condition holds; fail if it does not within a time that only a fault exceeds.

    Args:
        condition: Function without arguments.
        seconds: How long at most.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.02)
