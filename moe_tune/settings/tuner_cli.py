"""fit, validate, test and predict: LightningCLI, with this project's run directories, checkpoints and messages."""

import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, instantiate_class
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

import moe_tune.data
import moe_tune.heads
import moe_tune.losses
import moe_tune.models  # noqa: F401 - importing the folders makes their classes known by short name
from moe_tune.base.errors import ConfigError
from moe_tune.base.moved import old_spelling
from moe_tune.base.plugins import PLUGIN
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.callbacks.base_reference import BaseReference
from moe_tune.callbacks.evidence_log import EvidenceLog
from moe_tune.callbacks.freezing_proof import FreezingProof
from moe_tune.callbacks.question_records import PredictionRecords, QuestionRecords
from moe_tune.callbacks.run_files import RunFiles
from moe_tune.data.module import QuizDataModule
from moe_tune.runs.agent import own_folder, record_end, stopped_by_sweep
from moe_tune.runs.checkpoint import CONFIG, RouterCheckpointIO
from moe_tune.runs.directory import RunDirectory, identity, to_yaml
from moe_tune.runs.metrics_file import MetricsFile
from moe_tune.runs.redact import redacted
from moe_tune.settings.arguments import spread_out
from moe_tune.settings.complaints import readable
from moe_tune.settings.config_files import (
    checked_arguments,
    config_label,
    differences,
    with_checkpoint_config,
)
from moe_tune.settings.quiet import quieten
from moe_tune.settings.workbench import Workbench
from moe_tune.tracking.wandb_logger import close_wandb_run
from moe_tune.tuner.router_tuner import RouterTuner


class AlreadyComplete(Exception):
    """The same fit ran to its end before.

    Args:
        path: Its run directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"already complete: {path}. Hint: --fresh true runs it again.")
        self.path = path


@dataclass(slots=True)
class Claim:
    """The directory a verb works in, and where the old one of that name is until the new one has begun."""

    directory: RunDirectory | None = None
    aside: Path | None = None


class ParseFault(Exception):
    """What jsonargparse had to say about an argument."""


class TunerParser(LightningArgumentParser):
    """A parser that raises instead of printing its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise what was wrong.

        Raises:
            ParseFault: Always.
        """
        raise ParseFault(message) from ex


class TunerCLI(LightningCLI):
    """LightningCLI over ``RouterTuner`` and ``QuizDataModule``.

    Args:
        argv: The verb and its arguments.
        plugins: sha256 of the user's plug-in files, by path.
        claim: Is told which directory the verb works in; the constructor runs the verb, and may not return.
        workbench: What the runs of this process share; ``None`` shares nothing.
        watchers: Callbacks of whoever runs the verb, called after all others.
    """

    def __init__(
        self,
        argv: list[str],
        plugins: dict[str, str],
        claim: Claim,
        workbench: Workbench | None = None,
        watchers: Sequence[Callback] = (),
    ) -> None:
        self.plugins, self.argv, self.claim, self.workbench = plugins, argv, claim, workbench
        self.watchers = watchers
        self.datamodule: QuizDataModule
        self.directory: RunDirectory
        # Lightning warns when arguments are given beside sys.argv; here they always are.
        warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
        super().__init__(
            RouterTuner,
            QuizDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=TunerParser,
            load_from_checkpoint_support=False,
            args=with_checkpoint_config(spread_out(checked_arguments(argv))),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add where runs go, and what a fit ends with."""
        parser.add_argument("--runs_root", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--name", type=str | None, default=None, help="Short name of the run in comparisons.")
        parser.add_argument("--fresh", type=bool, default=False, help="Start anew although the same run exists.")
        parser.add_argument(
            "--test_after_fit", type=bool, default=False, help="Evaluate the test split once when a fit has ended."
        )
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say what was wrong in one message.

        Raises:
            ConfigError: An argument or a key of a configuration file has a fault.
        """
        try:
            super().parse_arguments(parser, args)
        except ParseFault as fault:
            if missing := re.search(rf"{PLUGIN}(\w+)", str(fault)):
                raise ConfigError(
                    f"expected the plug-in file {missing[1]}.py, which the configuration names, but it is not loaded. "
                    f"Hint: python -m moe_tune --plugins {missing[1]}.py {self.argv[0]} ..."
                ) from fault
            keys = {action.dest for one in self._subcommand_parsers.values() for action in one._actions}
            raise ConfigError(readable(str(fault), keys)) from fault

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint's configuration to ``with_checkpoint_config``: the command line wins over it."""

    @property
    def settings(self) -> Any:
        """The parsed arguments of the verb."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Find the run directory, and what an earlier run of the same command left there."""
        settings = self.settings
        refuse_unfit(settings.trainer)
        config: dict[str, Any] = old_spelling(
            yaml.safe_load(self._parser(self.subcommand).dump(settings, skip_none=False))
        )
        for key in OF_THE_CALL:
            config.pop(key, None)
        head = str(config["model"]["head"]["class_path"]).rpartition(".")[2]
        seed = int(config["seed_everything"])
        self.resolved = redacted(config)
        asked = {**config, "plugins": self.plugins} if self.plugins else config  # an edited plug-in makes another run
        self.directory = RunDirectory.of(
            Path(settings.runs_root), self.settings.name or config_label(self.argv), head, seed, asked
        )
        self.directory = RunDirectory(own_folder(self.directory.path))
        if self.subcommand == "fit":
            self._continue_or_start(settings)
        else:
            self._beside_the_fit(settings.get("ckpt_path"))
        self._place_loggers(settings)

    def _continue_or_start(self, settings: Any) -> None:
        self.claim.directory = self.directory.claimed()
        if self.directory.is_finished and not settings.fresh:
            raise AlreadyComplete(self.directory.path)
        if settings.ckpt_path is None and not settings.fresh and self.directory.last_checkpoint is not None:
            settings.ckpt_path = str(self.directory.last_checkpoint)
            done = RouterCheckpointIO().load_checkpoint(settings.ckpt_path)["global_step"]
            if not rank_zero_only.rank:
                MetricsFile(self.directory.path).forget_from(done)
            rank_zero_info(f"resuming {self.directory.path} from {settings.ckpt_path} at step {done}")
        elif settings.ckpt_path is not None and self.directory.path in Path(settings.ckpt_path).parents:
            if settings.fresh:
                raise ConfigError(
                    f"expected a checkpoint outside the run that is made afresh but got {settings.ckpt_path!r} "
                    "(fresh, ckpt_path). Hint: leave one of them out."
                )
        else:
            self.claim.aside = self.directory.set_aside()

    def _beside_the_fit(self, checkpoint: str | None) -> None:
        """Evaluate into the fit's own directory only what its manifest describes; anything else gets its own."""
        path = self.directory.path
        if checkpoint and Path(checkpoint).parent.name == "checkpoints":
            fitted = RunDirectory(Path(checkpoint).parent.parent)
            stored = load_yaml(Path(checkpoint) / CONFIG)
            for line in differences(stored, self.resolved):
                rank_zero_info(f"not as in the checkpoint: {line}")
            tested = Path(fitted.manifest.get("tested_checkpoint", checkpoint)).name
            same_code = sorted(fitted.manifest.get("plugins", {}).values()) == sorted(self.plugins.values())
            same_run = same_code and identity(stored) == identity(self.resolved)
            if same_run and (self.subcommand == "predict" or tested in ("last", Path(checkpoint).name)):
                self.directory = self.claim.directory = fitted.claimed()
                return
            changed = "" if same_run else f"-{identity(self.resolved)}"
            path = path.with_name(f"{fitted.path.name}-{Path(checkpoint).stem}{changed}")
        self.directory = RunDirectory(path.with_name(f"{path.name}-{self.subcommand}"))
        self.claim.directory = self.directory.claimed()
        self.claim.aside = self.directory.set_aside()

    def _place_loggers(self, settings: Any) -> None:
        """Loggers without a folder of their own write into the run directory."""
        loggers = settings.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if hasattr(logger, "init_args"):
                arguments = logger.init_args
                if "save_dir" in arguments and arguments.save_dir in (None, "."):
                    arguments.save_dir = str(self.directory.path)
                if arguments.get("name", "") is None:
                    arguments.name = self.directory.path.name

    def instantiate_classes(self) -> None:
        """Make the model, the data and the trainer; take from the workbench what it has of them."""
        super().instantiate_classes()
        if self.workbench is not None:
            self.workbench.begin(self.model)
            self.model.base = self.workbench.base(self.model.base)
            settings = yaml.safe_load(self._parser(self.subcommand).dump(self.settings, skip_none=False))["data"]
            self.datamodule = self.workbench.quiz(settings, self.datamodule)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer with this project's checkpoints, records and metrics file."""
        config = dict(self._get(self.config_init, "trainer", default={}))
        folder = self.directory.path
        name = self.settings.name or type(self.model.head).__name__
        callbacks = [
            RunFiles(self.directory, self.resolved, name, self.plugins),
            FreezingProof(self.directory),
            QuestionRecords(self.directory),
            PredictionRecords(self.directory),
            BaseReference(self.directory),
        ]
        plugins = [*(config.get("plugins") or []), RouterCheckpointIO(lambda: to_yaml(self.resolved))]
        trainer = super().instantiate_trainer(**{**kwargs, "plugins": plugins, "default_root_dir": str(folder)})
        if not any(isinstance(callback, EvidenceLog) for callback in trainer.callbacks):
            callbacks.append(EvidenceLog())
        trainer.callbacks[:0] = callbacks
        trainer.callbacks += self.watchers
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise ConfigError(NO_SHARDING.format(type(trainer.strategy).__name__))
        folder.mkdir(parents=True, exist_ok=True)  # W&B goes elsewhere if its folder does not exist
        trainer.loggers = [*trainer.loggers, MetricsFile(folder)]
        return trainer

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        """Hand the optimiser's configuration to the tuner, whose parameters exist only once the model is loaded."""
        optimizer = self._get(self.config_init, "optimizer")
        scheduler = self._get(self.config_init, "lr_scheduler")
        if optimizer:
            self.model.make_optimizer = partial(instantiate_class, init=optimizer)
        if scheduler:
            self.model.make_scheduler = partial(instantiate_class, init=scheduler)

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train, or calibrate and evaluate a head with nothing to train; then test once if asked for."""
        if self.model.trains:
            self.trainer.fit(model, **{**kwargs, "weights_only": True})
        else:
            self.refuse_idle_losses()
            kwargs.pop("ckpt_path", None)
            self.validate(model, **kwargs)
            self.trainer.save_checkpoint(self.directory.path / "checkpoints" / "last.ckpt")
        if self.trainer.interrupted:
            return
        if self.settings.test_after_fit:
            self.test(model, datamodule=self.datamodule, ckpt_path=self._best())
        self.directory.update_manifest(status="finished", tested_checkpoint=self._best() or "last")
        record_end(self.directory, early=False)
        rank_zero_info(f"run: {self.directory.path}")

    def refuse_idle_losses(self) -> None:
        """Refuse losses that nothing would be trained by.

        Raises:
            ConfigError: There are losses, and neither the head nor an adapter trains.
        """
        if self.model.losses and not self.model.trains:
            raise ConfigError(
                f"expected no losses for a head with nothing to train but got {sorted(self.model.losses)} "
                "(model.losses). Hint: configs/losses/none.yaml, or a head that trains."
            )

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluate the validation split; the numbers are printed by the callbacks, not as Lightning's table."""
        self.trainer.validate(model, **{**kwargs, "verbose": False, "weights_only": True})
        self._evaluated()

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluate the test split under every protocol."""
        self.trainer.test(model, **{**kwargs, "verbose": False, "weights_only": True})
        self._evaluated()

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Write the letter probabilities of the test questions."""
        self.trainer.predict(model, **{**kwargs, "return_predictions": False, "weights_only": True})
        self._evaluated()

    def _evaluated(self) -> None:
        if self.subcommand != "fit" and self.directory.manifest.get("status") == "started":
            self.directory.update_manifest(status="evaluated")

    def _best(self) -> str | None:
        callback = self.trainer.checkpoint_callback
        return str(callback.best_model_path) or None if isinstance(callback, ModelCheckpoint) else None


NO_SHARDING = (
    "expected ddp for several processes but got {} (trainer.strategy). Hint: --trainer.strategy ddp; only heads train, "
    "so there is next to nothing to shard, and kept prompts, hashes and checkpoints want whole tensors."
)
OTHER_WAYS = ("fsdp", "deepspeed", "modelparallel", "spawn", "fork", "notebook", "xla")
"""What the names of Lightning's other strategies contain: they shard tensors, or hand this program on by pickling."""


def refuse_unfit(trainer: Any) -> None:
    """Refuse a strategy that shards and heads in less than float32, before Lightning wants a GPU or a library for them.

    Args:
        trainer: The parsed arguments of the trainer.

    Raises:
        ConfigError: The strategy or the precision is one that no verb takes.
    """
    name = str(getattr(trainer.strategy, "class_path", trainer.strategy))
    if any(way in name.lower().replace("_", "") for way in OTHER_WAYS):
        raise ConfigError(NO_SHARDING.format(repr(name)))
    if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
        raise ConfigError(
            f"expected heads in float32 but got {trainer.precision!r} (trainer.precision). Hint: "
            "model.base.dtype is the base model's; bf16-mixed computes in bfloat16 and keeps heads and routing."
        )


OF_THE_CALL = ("fresh", "ckpt_path", "verbose", "weights_only", "return_predictions")
"""Arguments of one call, which are no part of a run's configuration."""


def run(
    argv: list[str],
    plugins: dict[str, str] | None = None,
    workbench: Workbench | None = None,
    watchers: Sequence[Callback] = (),
) -> Path:
    """Run one of Lightning's verbs and return the run directory.

    Args:
        argv: The verb and its arguments.
        plugins: sha256 of the user's plug-in files, by path.
        workbench: What the runs of this process share.
        watchers: Further callbacks.
    """
    quieten()
    sys.argv = ["moe_tune", *argv]  # what Lightning hands to the processes it starts
    claim = Claim()
    finished = False
    try:
        cli = TunerCLI(argv, plugins or {}, claim, workbench, watchers)
        finished = True
    except SystemExit as end:
        if claim.directory is None or not stopped_by_sweep(end):
            raise
        finished = True  # for W&B too: a sweep that stops a run has not found a fault in it
        record_end(claim.directory, early=True)
        return claim.directory.path
    except MisconfigurationException as fault:
        raise ConfigError(f"expected a trainer that can run here but got: {' '.join(str(fault).split())}") from fault
    finally:
        close_wandb_run(failed=not finished)
        if claim.directory is not None:
            claim.directory.settle(claim.aside)
    return cli.directory.path
