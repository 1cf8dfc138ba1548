"""Settings that parse and that no run takes."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy

from moe_tune.base.errors import ConfigError, require
from moe_tune.tuner.router_tuner import RouterTuner

NO_SHARDING = (
    "expected ddp for several processes but got {} (trainer.strategy). Hint: --trainer.strategy ddp; only heads train, "
    "so there is next to nothing to shard, and kept prompts, hashes and checkpoints want whole tensors."
)
OTHER_WAYS = ("fsdp", "deepspeed", "modelparallel", "spawn", "fork", "notebook", "xla")
"""What the names of Lightning's other strategies contain: they shard tensors, or hand this program on by pickling."""


def refuse_unfit(trainer: Any) -> None:
    """Refuse a strategy that shards and heads below float32, before Lightning wants a GPU or a library for them."""
    name = str(getattr(trainer.strategy, "class_path", trainer.strategy))
    if any(way in name.lower().replace("_", "") for way in OTHER_WAYS):
        raise ConfigError(NO_SHARDING.format(repr(name)))
    exact = not str(trainer.precision).endswith("-true") or trainer.precision == "32-true"
    hint = "model.base.dtype is the base model's; bf16-mixed computes in bfloat16 and keeps heads and routing."
    require(exact, "heads in float32", trainer.precision, "trainer.precision", hint)


def refuse_sharding(trainer: Trainer) -> None:
    """Refuse a strategy of several processes that only the trainer knows to be another than DDP."""
    if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
        raise ConfigError(NO_SHARDING.format(type(trainer.strategy).__name__))


def refuse_averaging(trainer: Trainer) -> None:
    """Refuse Lightning's averaging of weights: it averages the whole module, and checkpoints here hold heads alone."""
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging | WeightAveraging):
            raise ConfigError(
                f"expected no averaging of weights but got {type(callback).__name__} (trainer.callbacks): it keeps a "
                "second copy of the whole base model, and checkpoints here hold heads alone. Hint: leave it out."
            )


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


def refuse_idle_losses(tuner: RouterTuner) -> None:
    """Refuse losses that nothing would be trained by: neither the head nor an adapter trains."""
    asked, hint = "no losses for a head with nothing to train", "configs/losses/none.yaml, or a head that trains."
    require(tuner.trains or not tuner.losses, asked, sorted(tuner.losses), "model.losses", hint)
