"""RoutingTrainerCallback: the recorder in a transformers Trainer, or one of TRL's."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe_tune.base.errors import require
from moe_tune.recorder.added_losses import AddedLosses
from moe_tune.recorder.layer_values import TABLE
from moe_tune.recorder.routing_recorder import RoutingRecorder

if TYPE_CHECKING:
    from transformers import Trainer


class RoutingTrainerCallback(TrainerCallback):
    """Adds what the routers did since the last log to each of the Trainer's training logs.

    The values stand beside the loss: in ``state.log_history`` and in whatever the Trainer reports to. Passes in
    training mode with gradients count, of all micro-batches and processes. It puts itself before the other callbacks
    when training begins, so that they find the values in what they log.

    Args:
        trainer: The trainer it is added to: ``trainer.add_callback(RoutingTrainerCallback(trainer))``.
        every: Optimiser steps between logs, which it then asks the Trainer for; ``None`` leaves that to
            ``logging_steps``.
        detailed: Also log a table of the layers, where W&B runs.
        losses: What ``with_losses`` has returned: it is told of progress and optimiser steps, and its values are
            logged, too.

    Raises:
        ConfigError: ``every`` is less than 1.
    """

    def __init__(
        self, trainer: "Trainer", every: int | None = None, detailed: bool = False, losses: AddedLosses | None = None
    ) -> None:
        require(every is None or every >= 1, "at least 1 optimiser step", every, "every", "null: as logging_steps.")
        self.trainer, self.every, self.detailed, self.losses = trainer, every, detailed, losses
        self.recorder: RoutingRecorder | None = None

    def close(self) -> None:
        """Take the hooks away, as the end of training does; after an error nobody else does."""
        if self.recorder is not None:
            self.recorder.detach()
            self.recorder = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()
        callbacks = self.trainer.callback_handler.callbacks
        hint = "trainer.add_callback(RoutingTrainerCallback(trainer))."
        require(self in callbacks, "the trainer it is added to", type(self.trainer).__name__, "trainer", hint)
        callbacks.remove(self)
        callbacks.insert(0, self)
        self.recorder = RoutingRecorder(kwargs["model"], passes="training")
        self.recorder.attach()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.losses is not None:
            self.losses.progress = state.global_step / max(state.max_steps, 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.losses is not None:
            self.losses.after_step()
        if self.every is not None and state.global_step % self.every == 0:
            control.should_log = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if self.recorder is None or "loss" not in logs:  # an evaluation's, or the summary at the end
            return
        values = self.recorder.step() | ({} if self.losses is None else self.losses.step())
        logs.update(values)
        state.log_history[-1].update(values)  # it was written before callbacks are asked
        if self.detailed and state.is_world_process_zero:
            self._log_table(self.recorder.frame, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def _log_table(self, frame: pd.DataFrame, step: int) -> None:
        import wandb  # takes a second, and most trainers report elsewhere

        if wandb.run is not None:
            wandb.run.log({TABLE: wandb.Table(dataframe=frame), "train/global_step": step})
