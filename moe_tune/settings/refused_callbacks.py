"""Callbacks of Lightning that no fit here has, and the numbers, times and names that those it has do not take."""

import math
import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging

from moe_tune.base.errors import ConfigError, did_you_mean, require

NO_AVERAGING = (
    "expected no averaging of weights but got {} (trainer.callbacks): it keeps a second copy of the whole base model, "
    "and checkpoints here hold heads alone. Hint: leave it out."
)
NOT_CALLED = {
    "LearningRateFinder": "it would change optimizer.lr behind the configuration; a sweep over it says what is best",
    "BackboneFinetuning": "all but heads and adapter stays frozen",
    "ModelPruning": "python -m moe_tune prune is for experts",
    "LambdaCallback": "a configuration has no functions",
}
"""Callbacks of Lightning that no fit here can have, and why."""
SPANS = ("weeks", "days", "hours", "minutes", "seconds")


def refuse_callbacks(trainer: Any) -> None:
    """Refuse callbacks that no run takes.

    Args:
        trainer: The parsed arguments of the trainer.

    Raises:
        ConfigError: There is one.
    """
    for key, one in made_of(trainer, "callbacks"):
        patience = one.get("init_args.patience")
        require(
            patience is None or patience >= 0, "checks from 0", patience, f"{key}.init_args.patience", "3 is usual."
        )
        refuse_time(one.get("init_args.duration"), f"{key}.init_args.duration")
        depth, hint = one.get("init_args.max_depth"), "1 is usual, -1 is all."
        require(depth is None or depth >= -1, "a depth from -1", depth, f"{key}.init_args.max_depth", hint)
        name = str(one.class_path).rpartition(".")[2]
        if name in ("StochasticWeightAveraging", "WeightAveraging"):
            raise ConfigError(NO_AVERAGING.format(name))
        require(name not in NOT_CALLED, "another callback", name, key, f"leave it out: {NOT_CALLED.get(name)}.")
        if name.endswith("ModelCheckpoint"):
            _refuse_file_name(one.get("init_args.filename"), f"{key}.init_args.filename")
        saved = trainer.enable_checkpointing is not False or not name.endswith("ModelCheckpoint")
        require(saved, "checkpoints, or no ModelCheckpoint", False, "trainer.enable_checkpointing", "leave it out.")


def refuse_averaging(trainer: Trainer) -> None:
    """Refuse Lightning's averaging of weights: it averages the whole module, and checkpoints here hold heads alone."""
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging | WeightAveraging):
            raise ConfigError(NO_AVERAGING.format(type(callback).__name__))


def refuse_time(given: Any, where: str) -> None:
    """Refuse a time that is not above 0: in words of days, hours, minutes and seconds, or a mapping of spans."""
    if isinstance(given, str):
        timed = re.fullmatch(r"\d+:\d\d?:\d\d?:\d\d?", given) and re.search("[1-9]", given)
        require(bool(timed), "days:hours:minutes:seconds above 0", given, where, "00:12:00:00 is 12 hours.")
    elif isinstance(given, dict | Namespace):
        spans, hint = dict(given), "{hours: 12}"
        for word, value in spans.items():
            require(word in SPANS, "a span of time", word, where, did_you_mean(str(word), SPANS))
            number = isinstance(value, int | float) and 0 <= value < math.inf
            require(number, "a number from 0", value, f"{where}.{word}", hint)
        require(any(spans.values()), "a time above 0", spans, where, hint)


def made_of(trainer: Any, key: str) -> list[tuple[str, Any]]:
    """Return what is made of a key of the trainer, each with the key that names it."""
    given = trainer[key]
    listed = given if isinstance(given, list) else [given]
    keys = [
        f"trainer.{key}[{number}]" if isinstance(given, list) else f"trainer.{key}" for number in range(len(listed))
    ]
    return [(where, one) for where, one in zip(keys, listed, strict=True) if hasattr(one, "class_path")]


def _refuse_file_name(name: Any, where: str) -> None:
    hint = "{epoch}-{step} is usual; files are written below the run's folder."
    require(name is None or ".." not in Path(str(name)).parts, "a file's name", name, where, hint)
    require(name is None or not Path(str(name)).is_absolute(), "a file's name", name, where, hint)
    try:
        ModelCheckpoint(dirpath="checkpoints", filename=name).format_checkpoint_name({"epoch": 0, "step": 0})
    except (ValueError, TypeError, IndexError, KeyError) as fault:
        require(False, "a file's name with keys in braces", f"{name!r}: {fault}", where, hint)
