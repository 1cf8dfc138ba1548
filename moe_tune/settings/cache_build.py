"""Prompts of a configuration, computed and kept before anything is trained on them."""

from lightning.pytorch import Callback, LightningModule, Trainer

from moe_tune.answer_path.way import Way
from moe_tune.base.errors import require
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.tuner.router_tuner import RouterTuner

NEUTRAL = ["--model.head", "RetunedHead", "--model.losses", "{}", "--model.answer_path.use", "always"]
"""What is kept of prompts depends on neither head nor losses: only on the model, the layers and the data."""


class KeptPrompts(Callback):
    """Builds the caches of splits when a fit starts, and says what became of each.

    Args:
        splits: The splits; ``None`` takes train, validation and every test split.
    """

    def __init__(self, splits: list[str] | None) -> None:
        self.splits = splits

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RouterTuner)
        known = ["train", "validation", *pl_module.quiz.test_names]
        unknown = [split for split in self.splits or () if split not in known]
        require(not unknown, f"splits of {known}", unknown, "--splits", "--splits test.")
        for split in self.splits or known:
            pl_module.examiner.prepare([split])
            way = pl_module.examiner.settle(split)
            questions = len(pl_module.quiz.encoded(split).prompts)
            if way is Way.CACHED:
                print(f"{split}: {questions:,} questions cached")
            else:
                print(
                    f"{split}: not cached, its {questions:,} questions would take more than "
                    f"{pl_module.answer_path.limit_gb:g} GB (model.answer_path.limit_gb)"
                )


def build_caches(fit: FitSettings, splits: list[str] | None) -> None:
    """Build the caches that a fit will use, and say what became of each."""
    # A fit without steps: it loads what a fit loads, and the callback does the rest.
    trainer = fit.trainer_for(max_steps=0, num_sanity_val_steps=0, callbacks=[KeptPrompts(splits)])
    trainer.fit(fit.model, datamodule=fit.datamodule)
