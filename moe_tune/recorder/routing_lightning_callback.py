"""RoutingLightningCallback: the recorder in a Lightning fit."""

from typing import Any, Protocol, runtime_checkable

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_tune.base.errors import require
from moe_tune.recorder.added_losses import AddedLosses
from moe_tune.recorder.layer_values import TABLE
from moe_tune.recorder.routing_recorder import RoutingRecorder


@runtime_checkable
class TableLogger(Protocol):
    """A logger that takes tables, as Lightning's for W&B."""

    def log_table(self, key: str, *, dataframe: pd.DataFrame) -> None:
        """Log a table."""


class RoutingLightningCallback(Callback):
    """Logs what the routers of a LightningModule's model did, to every logger of the trainer.

    Passes in training mode with gradients count, of all micro-batches and processes; validations do not.

    Args:
        every: Optimiser steps between logs; ``None`` is the trainer's ``log_every_n_steps``.
        detailed: Also log a table of the layers, to loggers that take tables.
        losses: What ``with_losses`` has returned: it is told of progress and optimiser steps, and its values are
            logged, too.

    Raises:
        ConfigError: ``every`` is less than 1.
    """

    def __init__(self, every: int | None = None, detailed: bool = False, losses: AddedLosses | None = None) -> None:
        hint = "null: as log_every_n_steps."
        require(every is None or every >= 1, "at least 1 optimiser step", every, "every", hint)
        self.every, self.detailed, self.losses = every, detailed, losses
        self.recorder: RoutingRecorder | None = None
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the routers."""
        self.recorder = RoutingRecorder(pl_module, passes="training")
        self.recorder.attach()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimiser steps from where a checkpoint has left them."""
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tell losses how far training is."""
        if self.losses is not None:
            self.losses.progress = trainer.global_step / max(trainer.estimated_stepping_batches, 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after an optimiser step, if it is one to log after."""
        if self.recorder is None or trainer.global_step == self._step:  # gradients are still being summed
            return
        self._step = trainer.global_step
        if self.losses is not None:
            self.losses.after_step()
        every = self.every or trainer.log_every_n_steps
        if not every or self._step % every:
            return
        values = self.recorder.step() | ({} if self.losses is None else self.losses.step())
        for logger in trainer.loggers:
            # Lightning's own axis, so that the values stand beside what the module logs.
            logger.log_metrics(values, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
            if self.detailed and trainer.is_global_zero and isinstance(logger, TableLogger):
                logger.log_table(TABLE, dataframe=self.recorder.frame)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks away."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks away."""
        self._close()

    def _close(self) -> None:
        if self.recorder is not None:
            self.recorder.detach()
            self.recorder = None
