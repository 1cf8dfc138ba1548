"""What is told when one of several processes ends before the others, which only see that something broke."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer

from moe_tune.base.errors import MoeTuneError
from moe_tune.base.preemption import Preempted, asked


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
        started = getattr(trainer.strategy.launcher, "procs", None) or []
        lost = [str(rank) for rank, process in enumerate(started, start=1) if process.poll()]
        if not lost:
            raise
        raise MoeTuneError(
            f"expected {trainer.world_size} processes to the end but rank {', '.join(lost)} lost: "
            f"{' '.join(str(fault).split())[:160]}. Hint: its own message, or what killed it; the same command goes on."
        ) from fault
