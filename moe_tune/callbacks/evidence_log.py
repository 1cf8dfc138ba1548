"""EvidenceLog: what the routers did, per epoch, as files, tables and figures."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from moe_tune.base.published import published, write_parquet
from moe_tune.callbacks.base_reference import read_reference
from moe_tune.callbacks.evidence_figures import evidence_figures
from moe_tune.callbacks.evidence_tables import expert_table, layer_table, with_estimates
from moe_tune.reports.loggers import EvidenceLogger
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


class EvidenceLog(Callback):
    """Writes ``routing/`` and ``figures/`` after each evaluation; loggers get four images, W&B two tables as well.

    A run has one without being asked. To change it, list it in ``trainer.callbacks``.

    Args:
        train: Also evaluate the training split at the end of each epoch, with the heads as they are then: one more
            pass over it. Its routing numbers are in the history under ``train/``.
    """

    def __init__(self, train: bool = False) -> None:
        self.train = train

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the validation split's evidence."""
        if not trainer.sanity_checking:
            self.on_test_epoch_end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the evidence of every test loader."""
        for split, results in pl_module.results.items():
            self._write(trainer, pl_module, split, results)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Evaluate the training split if that is asked for."""
        if not self.train:
            return
        results = pl_module.examiner.evaluate("train", pl_module.examiner.results("train"))
        for name, value in results.evidence.summary().items():
            pl_module.log(f"train/{name}", torch.tensor(value, dtype=torch.float64))
        self._write(trainer, pl_module, "train", results)

    def _write(self, trainer: Trainer, tuner: RouterTuner, split: str, results: SplitResults) -> None:
        # Every process takes part in adding up the metrics.
        frame = with_estimates(results.evidence.frame())
        by_subject = results.evidence.subject_frame(tuner.quiz.subjects)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_parquet(frame, folder / "routing" / f"{split}.parquet")
        write_parquet(by_subject, folder / "routing" / f"{split}_by_subject.parquet")
        figures = evidence_figures(frame, split, read_reference(folder, split))
        files = {name: folder / "figures" / f"{split}_{name}.png" for name in figures}
        for name, figure in figures.items():
            with published(files[name]) as draft:
                figure.savefig(draft, format="png", pil_kwargs={"compress_level": 1})  # half the time, little larger
        tables = {"experts": expert_table(frame), "layers": layer_table(frame)}
        for logger in trainer.loggers:
            if isinstance(logger, EvidenceLogger):
                logger.log_evidence(split, tables, files)
            elif isinstance(logger, WandbLogger):  # ours, or Lightning's own
                for name, table in tables.items():
                    logger.log_table(f"{split}/{name}", dataframe=table)
                for name, file in files.items():
                    logger.log_image(f"{split}/{name}_figure", [str(file)])  # accuracy is a number's key
            elif isinstance(logger, TensorBoardLogger):
                for name, figure in figures.items():
                    logger.experiment.add_figure(f"{split}/{name}_figure", figure, global_step=trainer.global_step)
