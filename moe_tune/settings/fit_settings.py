"""The arguments of a fit for verbs that do something else with them, beside the verb's own."""

from collections.abc import Callable
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from moe_tune.settings.command import Command

AddArguments = Callable[[Any], None]
"""Adds a verb's options to a parser, argparse's or jsonargparse's."""


class FitSettings(Command):
    """A fit's model and data, made but not loaded; no loggers, no run directory.

    Args:
        argv: The arguments of a fit, and those of the verb.
        plugins: sha256 of the user's plug-in files, by path.
        own: Adds the verb's own options.
        shown: ``usage`` and ``description`` of its help.
    """

    reads_alone = True
    not_made: ClassVar[dict[str, Any]] = {"logger": False, "callbacks": None, "plugins": None, "profiler": None}
    """What the trainer's keys are instead of objects, which nobody uses here."""

    def __init__(
        self, argv: list[str], plugins: dict[str, str] | None = None, own: AddArguments | None = None, **shown: str
    ) -> None:
        self.own = own
        super().__init__(["fit", *argv], plugins, **shown)
        made = self.made(**self.not_made)
        self.model, self.datamodule = made.model, made.data
        self.objects = made
        """Everything that was made of the arguments, the verb's own classes too."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the verb's options to those of a fit."""
        super().add_arguments_to_parser(parser)
        if self.own is not None:
            self.own(parser)

    def trainer_for(self, **options: Any) -> Trainer:
        """Return a trainer on the configuration's hardware and numerics that writes and shows nothing."""
        kept = ("accelerator", "devices", "num_nodes", "precision", "deterministic")
        silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
        return Trainer(**{key: self.settings.trainer[key] for key in kept} | silent | options)
