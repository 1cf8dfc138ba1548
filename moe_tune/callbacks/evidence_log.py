"""EvidenceLog: what the routers did, per epoch, as files, tables and heat maps."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure

from moe_tune.callbacks.question_records import write_parquet
from moe_tune.module import RouterTuner
from moe_tune.runs.directory import RunDirectory


class EvidenceLog(Callback):
    """Writes ``routing/<split>.parquet`` and by subject, and sends one table and one heat map to W&B and TensorBoard.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation split's evidence."""
        self._write(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the evidence of every test loader."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, tuner: LightningModule) -> None:
        assert isinstance(tuner, RouterTuner)
        if not trainer.is_global_zero:
            return
        for split, results in tuner.results.items():
            frame = results.evidence.frame()
            folder = self.directory.path / "routing"
            write_parquet(frame, folder / f"{split}.parquet")
            write_parquet(results.evidence.subject_frame(tuner.quiz.subjects), folder / f"{split}_by_subject.parquet")
            figure = usage_figure(frame, split)
            file = self.directory.path / "figures" / f"{split}_usage.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=110)
            self._send(trainer, split, frame, file, figure)

    def _send(self, trainer: Trainer, split: str, frame: pd.DataFrame, file: Path, figure: Figure) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(f"{split}/experts", dataframe=expert_table(frame))
                logger.log_image(f"{split}/usage", [str(file)])
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"{split}/usage", figure, global_step=trainer.global_step)


def expert_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the layer-by-expert table that loggers show: the experts in use at the answer scope, with raw accuracy.

    Args:
        frame: A split's routing table.
    """
    answer = frame[(frame["scope"] == "answer") & (frame["count"] > 0)]
    columns = [
        "layer",
        "expert",
        "count",
        "questions",
        "correct",
        "weight_mass",
        "entropy_all_mean",
        "entropy_topk_mean",
    ]
    table = answer[columns].copy()
    table["accuracy"] = table["correct"] / table["questions"]
    return table.reset_index(drop=True)


def usage_figure(frame: pd.DataFrame, split: str) -> Figure:
    """Return heat maps of the share of tokens each expert of each layer gets, under both scopes.

    Args:
        frame: A split's routing table.
        split: Its name, for the title.
    """
    scopes = list(frame["scope"].unique())
    layers = frame["layer"].nunique()
    figure = Figure(figsize=(10, 1.2 + len(scopes) * (0.9 + 0.22 * layers)), layout="constrained")
    axes = figure.subplots(len(scopes), 1, squeeze=False)[:, 0]
    for axis, scope in zip(axes, scopes, strict=True):
        part = frame[frame["scope"] == scope]
        share = part.assign(share=part["count"] / part["tokens"].clip(lower=1)).pivot(
            index="layer", columns="expert", values="share"
        )
        # Experts that never fire stay white, so that they can be told from those that rarely do.
        image = axis.imshow(
            share.where(share > 0),
            aspect="auto",
            cmap=mpl.colormaps["viridis"],
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        never = float((share == 0).to_numpy().mean())
        axis.set_title(f"{split}, scope {scope}: share of tokens per expert (white: never, {never:.0%})", fontsize=10)
        axis.set_ylabel("layer")
        axis.set_yticks(range(layers), [str(layer) for layer in share.index])
        figure.colorbar(image, ax=axis, pad=0.01)
    axes[-1].set_xlabel("expert")
    return figure
