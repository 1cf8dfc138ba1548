"""Settings that parse and that no run takes."""

import math
import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.data.module import QuizDataModule
from moe_tune.settings.logged import refuse_unlogged
from moe_tune.settings.ranges import refuse_out_of_range
from moe_tune.settings.refused_callbacks import made_of, refuse_callbacks, refuse_time
from moe_tune.settings.tried_optimizer import refuse_untaken
from moe_tune.tracking.wandb_logger import refuse_words, wandb_mode
from moe_tune.tuner.router_tuner import RouterTuner

NO_SHARDING = (
    "expected ddp for several processes but got {} (trainer.strategy). Hint: --trainer.strategy ddp; only heads train, "
    "so there is next to nothing to shard, and kept prompts, hashes and checkpoints want whole tensors."
)
OTHER_WAYS = ("fsdp", "deepspeed", "modelparallel", "spawn", "fork", "notebook", "xla")
"""What the names of Lightning's other strategies contain: they shard tensors, or hand this program on by pickling."""


PROFILERS = ("simple", "advanced", "pytorch")
CLIPPING = ("norm", "value")
LONGEST_NAME = 100
"""Most characters of a run's name: with head, overrides and hash it becomes a folder's."""


def refuse_unfit(settings: Any) -> None:
    """Refuse settings that no run takes, before Lightning wants a GPU or a library for them.

    Args:
        settings: The parsed arguments of a verb.

    Raises:
        ConfigError: There is one.
    """
    trainer = settings.trainer
    mapped = isinstance(trainer, Namespace) and "strategy" in trainer
    require(mapped, "a mapping of keys", trainer, "trainer", "trainer: {max_epochs: 3}")
    every = settings.checkpoint_every
    hint = "checkpoint_every: {minutes: 2}"
    require(isinstance(every, Namespace), "a mapping of keys", every, "checkpoint_every", hint)
    _refuse_place(settings.name, settings.runs_root)
    refuse_out_of_range(settings)
    _refuse_hardware(settings.trainer)
    require(not trainer.barebones, "a trainer that logs and saves", True, "trainer.barebones", "leave it out.")
    for key, known in (("profiler", PROFILERS), ("gradient_clip_algorithm", CLIPPING)):
        word = trainer[key]
        require(
            not isinstance(word, str) or word in known,
            "a known word",
            word,
            f"trainer.{key}",
            did_you_mean(str(word), known),
        )
    refuse_time(trainer.max_time, "trainer.max_time")
    unseen = settings.get("test_after_fit") and trainer.limit_val_batches == 0 and not trainer.fast_dev_run
    hint = "--test_after_fit false, or let it validate."
    require(not unseen, "a validation of what is tested", 0, "trainer.limit_val_batches", hint)
    routes = settings.get("routes")
    parquet = not routes or Path(routes).suffix == ".parquet"
    require(parquet, "a file that ends in .parquet", routes, "--routes", "--routes routes.parquet.")
    refuse_unlogged(settings)
    refuse_untaken(settings)
    for key, one in made_of(trainer, "logger"):
        if "WandbLogger" in str(one.class_path):
            wandb_mode()  # said here, before it is one of many classes that do not fit
            refuse_words(one.init_args, f"{key}.init_args")
    refuse_callbacks(trainer)


def _refuse_place(name: str | None, runs_root: str | None) -> None:
    """Refuse a name that is no part of a folder's name, and a folder of runs that is none."""
    if name is not None:
        plain = not re.search(r"[/\\\x00-\x1f\x7f]", name) and name.strip(" .") and len(name) <= LONGEST_NAME
        plain = plain and not re.search(r"\.old-[0-9a-f]{8}", name)  # what runs that were set aside are called
        what, hint = f"a word of at most {LONGEST_NAME} characters, no path,", "--name lower-rate."
        require(bool(plain), what, name[: LONGEST_NAME + 20], "name", hint)
    hint = "--runs_root runs is the default."
    require(bool(runs_root), "a folder for runs", runs_root, "runs_root", hint)
    standing = next(path for path in [Path(str(runs_root)), *Path(str(runs_root)).absolute().parents] if path.exists())
    require(standing.is_dir(), "a folder for runs", f"{runs_root}, where {standing} is a file", "runs_root", hint)


def _refuse_hardware(trainer: Any) -> None:
    """Refuse accelerators and strategies there are not, one that shards, heads below float32, and no devices."""
    accelerators = {"auto", "gpu", *AcceleratorRegistry.available_accelerators()} - {"tpu"}
    given, where = trainer.accelerator, "trainer.accelerator"
    known = not isinstance(given, str) or given in accelerators
    require(known, "an accelerator", given, where, did_you_mean(str(given), accelerators))
    name = str(getattr(trainer.strategy, "class_path", trainer.strategy))
    if any(way in name.lower().replace("_", "") for way in OTHER_WAYS):
        raise ConfigError(NO_SHARDING.format(repr(name)))
    strategies = [one for one in StrategyRegistry.available_strategies() if not any(w in one for w in OTHER_WAYS)]
    known = not isinstance(trainer.strategy, str) or name in ("auto", *strategies)
    require(known, "a strategy", name, "trainer.strategy", did_you_mean(name, ["auto", *strategies]))
    exact = not str(trainer.precision).endswith("-true") or trainer.precision == "32-true"
    hint = "model.base.dtype is the base model's; bf16-mixed computes in bfloat16 and keeps heads and routing."
    require(exact, "heads in float32", trainer.precision, "trainer.precision", hint)
    devices, hint = trainer.devices, "--trainer.devices 1, auto, or a list such as [0, 1]."
    counted = (
        [devices] if isinstance(devices, int) else devices if isinstance(devices, list) else str(devices).split(",")
    )
    whole = all(re.fullmatch(r"auto|\s*-?\d+\s*", str(one)) for one in counted) and bool(counted)
    once = isinstance(devices, int) or len({str(one).strip() for one in counted}) == len(counted)
    require(whole and once, "devices", devices, "trainer.devices", hint)
    number = int(devices) if re.fullmatch(r"-?\d+", str(devices)) else None
    require(
        number is None or number >= 1 or number == -1,
        "at least 1 device, or -1 for all",
        devices,
        "trainer.devices",
        hint,
    )


def refuse_sharding(trainer: Trainer) -> None:
    """Refuse a strategy of several processes that only the trainer knows to be another than DDP."""
    if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
        raise ConfigError(NO_SHARDING.format(type(trainer.strategy).__name__))


class SeenByValidation(Callback):
    """Refuses a fit that would test weights which no validation has seen, before its first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the fit's steps with those to its first validation."""
        if trainer.fast_dev_run:
            return
        every = trainer.val_check_batch or trainer.num_training_batches
        first = math.ceil(every / trainer.accumulate_grad_batches) * (trainer.check_val_every_n_epoch or 1)
        steps = trainer.estimated_stepping_batches
        if not trainer.limit_val_batches:
            why = "trainer.limit_val_batches is 0"
        elif steps < first:
            why = f"the fit has {steps:,} steps and its first validation comes after {first:,}"
        else:
            return
        raise ConfigError(
            f"expected a validation of what is tested but {why} (test_after_fit). Hint: --test_after_fit false, "
            "or let it validate."
        )


def refuse_missing_text(tuner: RouterTuner, quiz: QuizDataModule) -> None:
    """Refuse a task that trains on text where there is none."""
    hint = "--data.text.source LocalText --data.text.source.path FILE, or --model.task quiz."
    there = tuner.task == "quiz" or quiz.text is not None
    require(there, f"text for the task {tuner.task}", None, "data.text", hint)


def refuse_idle_losses(tuner: RouterTuner) -> None:
    """Refuse losses that nothing would be trained by: neither the head nor an adapter trains."""
    asked, hint = "no losses for a head with nothing to train", "configs/losses/none.yaml, or a head that trains."
    require(tuner.trains or not tuner.losses, asked, sorted(tuner.losses), "model.losses", hint)
