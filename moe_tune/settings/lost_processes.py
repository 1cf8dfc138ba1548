"""What is told when one of several processes ends before the others, which only see that something broke."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from subprocess import Popen

from lightning.pytorch import Trainer

from moe_tune.base.errors import MoeTuneError
from moe_tune.base.preemption import Preempted, asked

GONE = 2.0
"""Seconds within which a process whose connection broke is gone."""


@contextmanager
def lost_processes_told(trainer: Trainer) -> Iterator[None]:
    """Name the processes that were lost where a run of several ends by an error of their connection.

    Raises:
        Preempted: A signal that asked for the end has reached a data loader's worker, too, and ended it at once.
        MoeTuneError: Processes that this one has started have ended by a signal or with a fault.
    """
    try:
        yield
    except RuntimeError as fault:
        if name := asked():
            raise Preempted(name, "with its workers; the last checkpoint stands") from fault
        lost = _ended(getattr(trainer.strategy.launcher, "procs", None) or [])
        if not lost:
            raise
        raise MoeTuneError(
            f"expected {trainer.world_size} processes to the end but rank {', '.join(lost)} lost: "
            f"{' '.join(str(fault).split())[:160]}. Hint: its own message, or what killed it; the same command goes on."
        ) from fault


def _ended(started: Sequence[Popen[bytes]]) -> list[str]:
    """Return the ranks whose processes have ended badly; a connection breaks a moment before its process is gone."""
    until = time.monotonic() + GONE
    while started and time.monotonic() < until:
        if lost := [str(rank) for rank, process in enumerate(started, start=1) if process.poll()]:
            return lost
        time.sleep(0.05)
    return []
