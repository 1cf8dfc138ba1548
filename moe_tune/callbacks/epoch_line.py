"""EpochLine: one line per epoch that stays; and the bar of the running one, which does not."""

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.runs.answers import BASE, questions_file
from moe_tune.runs.directory import RunDirectory

SHOWN = ("train/loss", "train/accuracy")
"""What the bar shows beside its progress."""


class EpochLine(Callback):
    """Prints a line at the end of each epoch, on a terminal and into a file alike.

    It holds the loss and the accuracy of the epoch's last validation, and the pretrained router's accuracy; without a
    validation the training loss of the last step.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory, self.validated = directory, False

    def state_dict(self) -> dict[str, Any]:
        """Return whether the running epoch was validated."""
        return {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on within an epoch."""
        self.validated = state_dict["validated"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validation of the epoch before."""
        self.validated = False

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there was one."""
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not trainer.is_global_zero:
            return
        numbers = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if not self.validated:
            numbers = {
                key: value for key, value in numbers.items() if not key.startswith(("validation/", "validation_text/"))
            }
        line = epoch_line(trainer.current_epoch + 1, trainer.max_epochs or 0, numbers, self._pretrained())
        bar = trainer.progress_bar_callback
        if bar is None:
            rank_zero_info(line)
        else:
            bar.print(line)  # above the bar

    def _pretrained(self) -> float | None:
        file = questions_file(self.directory.path, "validation", BASE)
        if not file.is_file():
            return None
        frame = pd.read_parquet(file, columns=["gold", "prediction"])
        return float((frame["gold"] == frame["prediction"]).mean())


def epoch_line(epoch: int, epochs: int, numbers: dict[str, float], pretrained: float | None) -> str:
    """Return the line of an epoch.

    Args:
        epoch: Its number, from 1.
        epochs: How many there will be at most, or 0 or less.
        numbers: What was logged, by key.
        pretrained: The pretrained router's accuracy, 0 to 1.

    Example:
        >>> epoch_line(2, 3, {"validation/loss": 0.861, "validation/accuracy": 0.6651}, 0.308)
        'epoch 2/3  loss 0.86  accuracy 66.5 % (pretrained 30.8)'
        >>> epoch_line(2, -1, {"train/loss": 0.861}, None)
        'epoch 2  train loss 0.86'
        >>> epoch_line(1, 1, {"validation_text/loss": 4.2663}, None)
        'epoch 1/1  text loss 4.266'
    """
    parts = [f"epoch {epoch}/{epochs}" if epochs > 0 else f"epoch {epoch}"]
    if "validation_text/loss" in numbers:
        parts.append(f"text loss {numbers['validation_text/loss']:.3f}")
    if "validation/accuracy" in numbers:
        beside = "" if pretrained is None else f" (pretrained {100 * pretrained:.1f})"
        parts.append(f"loss {numbers['validation/loss']:.2f}")
        parts.append(f"accuracy {100 * numbers['validation/accuracy']:.1f} %{beside}")
    elif "train/loss" in numbers and len(parts) == 1:
        parts.append(f"train loss {numbers['train/loss']:.2f}")
    return "  ".join(parts)


class Bar(TQDMProgressBar):
    """Lightning's bar with two short numbers; tqdm cuts it to the terminal, and it goes when it is full."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the training loss and accuracy."""
        logged = trainer.progress_bar_metrics
        return {key.partition("/")[2]: f"{float(logged[key]):.3g}" for key in SHOWN if key in logged}

    def _gone(self, bar: Tqdm) -> Tqdm:
        bar.leave = False
        return bar

    def init_train_tqdm(self) -> Tqdm:
        """Return the bar of training."""
        return self._gone(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation."""
        return self._gone(super().init_validation_tqdm())

    def init_test_tqdm(self) -> Tqdm:
        """Return the bar of a test."""
        return self._gone(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar of a prediction."""
        return self._gone(super().init_predict_tqdm())


def progress_bar(chosen: Sequence[Callback], enabled: bool | None) -> tuple[list[Callback], bool | None]:
    """Return the bar to add to the chosen callbacks, and whether the trainer has one: a file gets lines, no bar.

    Args:
        chosen: Callbacks of the configuration; one of them may be another bar.
        enabled: ``trainer.enable_progress_bar``; ``True`` asks for Lightning's where the output is a file.
    """
    if enabled is False or any(isinstance(one, ProgressBar) for one in chosen):
        return [], enabled
    if sys.stdout.isatty():
        return [Bar()], enabled
    return [], enabled or False
