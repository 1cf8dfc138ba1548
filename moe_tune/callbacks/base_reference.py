"""BaseReference: what the pretrained router does on the splits that a run evaluates, once per run."""

from pathlib import Path

import pandas as pd
from lightning.pytorch import Callback, Trainer

from moe_tune.base.published import write_parquet
from moe_tune.callbacks.base_answers import Known, base_answers
from moe_tune.runs.answers import BASE, BASE_VALIDATION, base_routing_file, questions_file
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner


class BaseReference(Callback):
    """Evaluates the pretrained router: on validation before the first training step, on test splits after the heads.

    It writes ``questions/<split>.base.parquet`` and ``routing/<split>.base.parquet`` (of validation
    ``routing/base_validation.parquet``), and logs the history's keys as ``base_validation/<key>`` at step 0. What is
    there already stays. A head with nothing to train gets it with its validation. With the tuned answers a test split
    is opened once.

    Args:
        directory: The run directory.
        known: What runs of this process have asked before.
    """

    def __init__(self, directory: RunDirectory, known: Known | None = None) -> None:
        self.directory, self.known = directory, {} if known is None else known

    def on_train_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Evaluate the pretrained router, unless an earlier part of the fit did."""
        if trainer.limit_val_batches:
            self._keep(trainer, pl_module, "validation", self._there(trainer, "validation"))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Do the same beside the validation of a head with nothing to train."""
        if trainer.state.fn == "validate" and not pl_module.trains:
            self._keep(trainer, pl_module, "validation", (False, False))  # the history has begun anew

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Evaluate the pretrained router on every test split."""
        for split in pl_module.results:
            self._keep(trainer, pl_module, split, self._there(trainer, split))

    def _there(self, trainer: Trainer, split: str) -> tuple[bool, bool]:
        # The first process decides: another machine may not see the files, and all have to take part in the pass.
        files = base_routing_file(self.directory.path, split), questions_file(self.directory.path, split, BASE)
        there: tuple[bool, bool] = trainer.strategy.broadcast(tuple(file.is_file() for file in files))
        return there

    def _keep(self, trainer: Trainer, tuner: RouterTuner, split: str, there: tuple[bool, bool]) -> None:
        if all(there):
            return
        answers = base_answers(trainer, tuner, split, self.known)
        if trainer.is_global_zero:
            write_parquet(answers.routing, base_routing_file(self.directory.path, split))
            write_parquet(answers.questions, questions_file(self.directory.path, split, BASE))
        if split == "validation" and not there[0]:  # a run of before has the history, and no answers
            history = {f"{BASE_VALIDATION}/{key}": value for key, value in answers.summary.items()}
            for logger in trainer.loggers:
                logger.log_metrics(history, step=tuner.global_step)


def read_reference(folder: Path, split: str) -> pd.DataFrame | None:
    """Return the pretrained router's evidence on a split; ``None`` where a run has none."""
    file = base_routing_file(folder, split)
    return pd.read_parquet(file) if file.is_file() else None
