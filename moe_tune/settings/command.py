"""A command is parsed by LightningCLI into settings; objects are made of them when somebody asks."""

import re
import warnings
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from traceback import walk_tb
from typing import Any

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import moe_tune.data
import moe_tune.heads
import moe_tune.losses
import moe_tune.models  # noqa: F401 - importing the folders makes their classes known by short name
from moe_tune.base.checkpoint_folder import CONFIG, complete_folder
from moe_tune.base.errors import ConfigError
from moe_tune.base.moved import old_spelling
from moe_tune.base.strict_yaml import load_yaml, parse_yaml
from moe_tune.base.trusted import DENIED, PLUGIN, foreign, guarded_imports, refuse_foreign
from moe_tune.data.module import QuizDataModule
from moe_tune.settings.arguments import config_arguments, is_inline, read_arguments
from moe_tune.settings.checkpoint_every import CheckpointEvery
from moe_tune.settings.complaints import readable
from moe_tune.settings.help_levels import HELP_ALL, MORE, HelpAll, is_of_a_fit, sections, told_of
from moe_tune.settings.listing import known_classes
from moe_tune.settings.nulls import refuse_nulls
from moe_tune.settings.refusals import refuse_unfit
from moe_tune.settings.taken import inline, taken
from moe_tune.tuner.router_tuner import RouterTuner

set_parsing_settings(instantiate_subclass_spec_in_any=False)  # else any dict with a class_path becomes an object

OF_THE_CALL = ("fresh", "ckpt_path", "verbose", "weights_only", "return_predictions", "routes")
"""Arguments of one call, which are no part of a run's configuration."""


class _ParseFault(Exception):
    """What jsonargparse had to say about an argument."""


class _Parser(LightningArgumentParser):
    """A parser that raises instead of printing its whole usage, and takes no abbreviation for a key.

    The help of a fit leaves out Lightning's own keys unless they are asked for; that of a class adds its formula.
    """

    all_keys = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.explained: type | None = None

    def add_class_arguments(self, theclass: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Note the class, which is the one that a help of its own is about."""
        self.explained = theclass
        added: list[str] = super().add_class_arguments(theclass, *args, **kwargs)
        return added

    def format_help(self, *args: Any) -> str:
        """Return the help, at the level that is asked for."""
        if not is_of_a_fit(self._actions):
            alone = self.explained if getattr(self, "_inner_parser", False) else None
            return f"{super().format_help(*args)}{told_of(alone) if alone else ''}"
        groups: list[Any] = vars(self)["_action_groups"]
        self._action_groups = sections(groups, self.all_keys)
        try:
            return f"{super().format_help(*args)}{'' if self.all_keys else MORE}"
        finally:
            self._action_groups = groups

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise _ParseFault(message) from ex


class Command(LightningCLI):
    """One of Lightning's verbs with its arguments, parsed by LightningCLI over ``RouterTuner`` and ``QuizDataModule``.

    LightningCLI's constructor makes all objects and runs the verb; this one parses, and that is all. A fit imports what
    its configuration names; with a checkpoint, and under every other verb, foreign classes are refused beforehand.

    Args:
        argv: The verb and its arguments.
        plugins: sha256 of the user's plug-in files, by path.
        shown: ``usage`` and ``description`` of its help, where they are another verb's.

    Raises:
        ConfigError: An argument or a key of a configuration has a fault, or no verb takes the trainer's strategy.
        ModelError: The checkpoint that is asked for is not intact, or a class is named that is not to be imported.
    """

    reads_alone = False
    """Whether a fit's arguments are only looked at, so that nothing foreign is imported for them."""

    def __init__(self, argv: list[str], plugins: dict[str, str] | None = None, **shown: str) -> None:
        self.argv, self.plugins = argv, plugins or {}
        words, checkpoint = read_arguments(argv)
        self.guarded = self.reads_alone or argv[0] != "fit"
        if self.guarded:
            for value in config_arguments(argv):
                one = parse_yaml(value, "--config") if is_inline(value) else load_yaml(Path(value))
                refuse_foreign(one, "--config" if is_inline(value) else value)
        if checkpoint is not None:  # its configuration comes first, so that files and arguments win over it
            words[1:1] = _words_of(complete_folder(checkpoint))
        # Lightning warns when arguments are given beside sys.argv; here they always are.
        warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
        super().__init__(
            RouterTuner,
            QuizDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=_Parser,
            parser_kwargs={argv[0]: {"usage": f"moe_tune {argv[0]} [options]"} | shown},
            load_from_checkpoint_support=False,
            args=words,
        )
        self.checkpoint_every = CheckpointEvery(**self.settings.checkpoint_every)

    def subcommands(self) -> dict[str, set[str]]:
        """Name the verb that is asked for; a parser for each of the others would take as long as this one's."""
        return {self.argv[0]: LightningCLI.subcommands()[self.argv[0]]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add where runs go, what a fit ends with, and the help of all keys."""
        parser.add_argument(HELP_ALL, action=HelpAll, help="the same with Lightning's own keys")
        parser.add_argument("--runs_root", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--name", type=str | None, default=None, help="Short name of the run in comparisons.")
        parser.add_argument("--fresh", type=bool, default=False, help="Start anew although the same run exists.")
        parser.add_argument(
            "--test_after_fit", type=bool, default=False, help="Evaluate the test split once when a fit has ended."
        )
        parser.add_class_arguments(CheckpointEvery, "checkpoint_every")
        if self.argv[0] == "predict":
            told = "Parquet file for the expert and weight of every token, layer and slot; prompts then run in full."
            parser.add_argument("--routes", type=str | None, default=None, help=told)
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say what was wrong in one message."""
        try:
            with guarded_imports(known_classes()) if self.guarded else nullcontext():
                super().parse_arguments(parser, args)
        except _ParseFault as fault:
            if missing := re.search(rf"{PLUGIN}(\w+)", str(fault)):
                raise ConfigError(
                    f"expected the plug-in file {missing[1]}.py, which the configuration names, but it is not loaded. "
                    f"Hint: python -m moe_tune --plugins {missing[1]}.py VERB ..., with every verb; from Python "
                    f"load_plugin_file({missing[1] + '.py'!r}) of moe_tune.base.plugins."
                ) from fault
            if denied := DENIED.search(str(fault)):
                raise foreign(denied[1], "the command or its configuration") from fault
            keys = {action.dest for one in self._subcommand_parsers.values() for action in one._actions}
            raise ConfigError(readable(str(fault), keys, self.argv)) from fault

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint's configuration to the constructor: the command line wins over it."""

    def _set_seed(self) -> None:
        refuse_nulls(self._parser(self.subcommand), self.settings)
        refuse_unfit(self.settings)
        seed = self.settings.seed_everything
        if seed is not False:  # True lets Lightning choose
            chosen = seed_everything(None if seed is True else seed, workers=True, verbose=False)
            self.settings.seed_everything = chosen

    def instantiate_classes(self) -> None:
        """Make nothing yet."""

    def _run_subcommand(self, subcommand: str) -> None: ...

    @property
    def settings(self) -> Namespace:
        """The parsed arguments of the verb."""
        settings: Namespace = self.config[self.subcommand]
        return settings

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The complete configuration as plain values, without the arguments of the call; classes as runs spell them."""
        text = self._parser(self.subcommand).dump(self.settings, skip_none=False)
        config: dict[str, Any] = old_spelling(yaml.safe_load(text))
        return {key: value for key, value in config.items() if key not in OF_THE_CALL}

    def made(self, **trainer: Any) -> Namespace:
        """Return the settings with an object for each class they name: model and data, unloaded, loggers, callbacks."""
        settings = self.settings.clone()
        for key, value in trainer.items():
            settings[f"trainer.{key}"] = value
        try:
            made: Namespace = self._parser(self.subcommand).instantiate_classes(settings)
        except (ValueError, TypeError, MisconfigurationException) as fault:
            # What was typed reaches constructors of other people here, which say it in their own ways.
            raise ConfigError(
                f"expected settings that every class takes but got: {' '.join(str(fault).split())[:300]} "
                f"({_raised_by(fault)}). Hint: python -m moe_tune fit --help-all explains all keys."
            ) from fault
        return made


def _raised_by(fault: BaseException) -> str:
    """Return the class whose constructor raised a fault."""
    frames = [one.f_locals for one, _ in walk_tb(fault.__traceback__) if one.f_code.co_name == "__init__"]
    makers = [type(local["self"]).__name__ for local in frames if "self" in local]
    return makers[-1] if makers else "the configuration"


def _words_of(checkpoint: Path) -> list[str]:
    """Return the arguments that a checkpoint brings: what is taken of its configuration, and where its run is."""
    config = load_yaml(checkpoint / CONFIG)
    refuse_foreign(config, str(checkpoint / CONFIG))
    words = ["--config", inline(taken(config))]
    return (
        [*words, f"--runs_root={checkpoint.parent.parent.parent}"] if checkpoint.parent.name == "checkpoints" else words
    )
