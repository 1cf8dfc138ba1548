"""BaseReference: what the pretrained router does on the validation split, once per run."""

from itertools import islice
from pathlib import Path

import pandas as pd
from lightning.pytorch import Callback, Trainer

from moe_tune.base.published import write_parquet
from moe_tune.callbacks.evidence_tables import with_estimates
from moe_tune.heads.identity import IdentityHead
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults

NAME = "base_validation"
"""What its keys in the history and its file begin with."""


class BaseReference(Callback):
    """Evaluates the pretrained router on the validation split before the first training step, for later epochs to show.

    It logs the history's keys as ``base_validation/<key>`` at step 0 and writes ``routing/base_validation.parquet``.
    A fit that goes on finds the file and does nothing. A head with nothing to train gets it with its validation.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_train_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Evaluate the pretrained router, unless an earlier part of the fit did."""
        # The first process decides: another machine may not see the file, and all have to take part in the pass.
        there = trainer.strategy.broadcast(reference_file(self.directory.path).is_file())
        if trainer.limit_val_batches and not there:
            self._keep(trainer, pl_module, base_results(trainer, pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Do the same beside the validation of a head with nothing to train; no head at all is its own reference."""
        if trainer.state.fn == "validate" and not pl_module.trains:
            alone = isinstance(pl_module.head, IdentityHead)
            results = pl_module.results["validation"] if alone else base_results(trainer, pl_module)
            self._keep(trainer, pl_module, results)

    def _keep(self, trainer: Trainer, tuner: RouterTuner, results: SplitResults) -> None:
        history = {f"{NAME}/{key}": value for key, value in results.summary().items()}
        frame = with_estimates(results.evidence.frame())
        if trainer.is_global_zero:
            write_parquet(frame, reference_file(self.directory.path))
        for logger in trainer.loggers:
            logger.log_metrics(history, step=tuner.global_step)


def base_results(trainer: Trainer, tuner: RouterTuner) -> SplitResults:
    """Return how the validation split goes with the pretrained router in every layer."""
    # The trainer's own where it has one: to overfit it replaces the sampler.
    loader, limit = trainer.val_dataloaders or tuner.quiz.val_dataloader(), trainer.limit_val_batches
    batches = limit if isinstance(limit, int) else int(limit * len(loader))
    examiner = tuner.examiner
    with tuner.gated.session(base_only=True):
        return examiner.evaluate("validation", examiner.results("validation"), islice(loader, batches))


def reference_file(folder: Path) -> Path:
    """Return where a run directory keeps the pretrained router's evidence."""
    return folder / "routing" / f"{NAME}.parquet"


def read_reference(folder: Path) -> pd.DataFrame | None:
    """Return the pretrained router's evidence on the validation split; ``None`` where a run has none."""
    file = reference_file(folder)
    return pd.read_parquet(file) if file.is_file() else None
