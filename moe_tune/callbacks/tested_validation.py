"""TestedValidation: how the validation questions go with the checkpoint that is tested."""

from typing import Any

import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from moe_tune.base.published import write_parquet
from moe_tune.callbacks.base_answers import answered, validation_batches
from moe_tune.runs.answers import BEST, questions_file
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner


class TestedValidation(Callback):
    """Writes ``questions/validation.best.parquet`` when training ends: the answers of the checkpoint that is tested.

    ``questions/validation.parquet`` is the last epoch's. Where another epoch was best, its heads answer once more.

    Args:
        directory: The run directory.
    """

    __test__ = False

    def __init__(self, directory: RunDirectory) -> None:
        self.directory, self.validated = directory, -1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which step the last validation was at."""
        if not trainer.sanity_checking:
            self.validated = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the last validation."""
        return {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's."""
        self.validated = state_dict["validated"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the best heads, and put those of the last step back."""
        assert isinstance(pl_module, RouterTuner)
        checkpoint = trainer.checkpoint_callback
        best = str(checkpoint.best_model_path) if isinstance(checkpoint, ModelCheckpoint) else ""
        if not best or self.validated < 0:
            return
        last, file = (questions_file(self.directory.path, "validation", of) for of in ("", BEST))
        kept = RouterCheckpointIO().load_checkpoint(best)
        if kept["global_step"] == self.validated:
            if trainer.is_global_zero:
                write_parquet(pd.read_parquet(last), file)
            return
        with pl_module.gated.other_state(kept["state_dict"], best):
            results = pl_module.examiner.results("validation")
            pl_module.examiner.evaluate("validation", results, validation_batches(trainer, pl_module))
        frame = answered(pl_module, "validation", results)
        if trainer.is_global_zero:
            write_parquet(frame, file)
