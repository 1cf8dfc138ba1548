"""SIGTERM where several processes train together: all of them end, at the same batch."""

import signal
from types import FrameType

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from moe_tune.base.ranks import summed_over_ranks


class JointEnd:
    """Lets a SIGTERM to any process end all of them at the next batch that they begin.

    It stands in for Lightning's handler, which waits inside the signal for a broadcast that the others may never make.

    Args:
        trainer: A trainer of several processes; its teardown puts the former handler back.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.asked = trainer, False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def check(self) -> None:
        """End if any process was asked to; every process has to call it at the same place.

        Raises:
            SIGTERMException: One was.
        """
        if int(summed_over_ranks(torch.tensor(int(self.asked), device=self.trainer.strategy.root_device))):
            raise SIGTERMException
