"""Reading the configuration of a fit without running it."""

import logging
from typing import Any

import yaml
from lightning.pytorch import Trainer

from moe_tune.settings.tuner_cli import Claim, TunerCLI, refuse_unfit


class SettingsCLI(TunerCLI):
    """Makes the model's and the data's objects of a configuration, unloaded; no trainer, no loggers, no run directory.

    Args:
        argv: The arguments of a fit.
        plugins: sha256 of the user's plug-in files, by path.
    """

    def __init__(self, argv: list[str], plugins: dict[str, str] | None = None) -> None:
        logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)  # else one line per reading
        super().__init__(["fit", *argv], plugins or {}, Claim())

    def before_instantiate_classes(self) -> None:
        """Refuse what a fit refuses, and leave out what would write files."""
        refuse_unfit(self.settings.trainer)
        self.resolved = yaml.safe_load(self._parser("fit").dump(self.settings, skip_none=False))
        self.settings.trainer.logger = False
        self.settings.trainer.callbacks = None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make no trainer."""

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def trainer_for(self, **options: Any) -> Trainer:
        """Return a trainer on the configuration's hardware and numerics that writes and shows nothing.

        Args:
            options: Further arguments of Lightning's ``Trainer``.
        """
        settings = self.settings.trainer
        kept = ("accelerator", "devices", "num_nodes", "precision", "deterministic")
        silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
        return Trainer(**{key: settings[key] for key in kept} | silent | options)
