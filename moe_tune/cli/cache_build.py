"""``cache build``: compute and keep the prompts of a configuration before anything is trained on them."""

import argparse

from lightning.pytorch import Callback, LightningModule, Trainer

from moe_tune.answer_path.way import Way
from moe_tune.base.errors import ConfigError
from moe_tune.settings.quiet import quieten
from moe_tune.settings.settings_cli import SettingsCLI
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
        """Build them."""
        assert isinstance(pl_module, RouterTuner)
        known = ["train", "validation", *pl_module.quiz.test_names]
        unknown = [split for split in self.splits or () if split not in known]
        if unknown:
            raise ConfigError(f"expected splits of {known} but got {unknown} (--splits). Hint: --splits test.")
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


def build_from_config(argv: list[str]) -> int:
    """Build the caches of a configuration and return 0.

    Args:
        argv: ``--splits``, and the arguments of a fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m moe_tune cache build",
        description="Compute and keep the prompts of a configuration; everything else is as for fit.",
        allow_abbrev=False,
    )
    parser.add_argument("--splits", nargs="+", help="which splits; all of them if left out")
    given, rest = parser.parse_known_args(argv)
    quieten()
    cli = SettingsCLI([*rest, *NEUTRAL])
    # A fit without steps: it loads what a fit loads, and the callback does the rest.
    trainer = cli.trainer_for(max_steps=0, num_sanity_val_steps=0, callbacks=[KeptPrompts(given.splits)])
    trainer.fit(cli.model, datamodule=cli.datamodule)
    return 0
