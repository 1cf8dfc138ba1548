"""The numbers of a configuration that no run can mean, key by key."""

import math
from dataclasses import dataclass
from typing import Any

from moe_tune.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """Which numbers a key takes; other types and ``null`` are not its business.

    Attributes:
        words: The range in words.
        usual: What is usual there.
        least: The smallest.
        most: The largest.
        share: Whether fractions are shares up to 1, while whole numbers count.
    """

    words: str
    usual: str
    least: float
    most: float = math.inf
    share: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a value is no number, or one of the range.

        Example:
            >>> RANGES["trainer.limit_train_batches"].holds(1.5), RANGES["trainer.limit_train_batches"].holds(15)
            (False, True)
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        if not math.isfinite(value) or not self.least <= value <= self.most:
            return False
        return not (self.share and isinstance(value, float) and value > 1)


_BATCHES = Range("batches from 0, or a share of 0 to 1", "1.0 takes all.", 0, share=True)
_COUNT = Range("a whole number of at least 1", "1 is usual.", 1)
RANGES = {
    "seed_everything": Range("a seed of 0 to 4294967295", "0 is usual.", 0, 2**32 - 1),
    "trainer.max_epochs": Range("at least 1 epoch, or -1 for no limit", "3 is usual.", -1),
    "trainer.min_epochs": Range("epochs from 0", "leave it out.", 0),
    "trainer.max_steps": Range("at least 1 step, or -1 for no limit", "-1 lets epochs decide.", -1),
    "trainer.min_steps": Range("steps from 0", "leave it out.", 0),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.gradient_clip_val": Range("a finite norm of at least 0", "1.0 is usual, null clips nothing.", 0),
    "trainer.log_every_n_steps": Range("at least 1 step", "10 is usual.", 1),
    "trainer.val_check_interval": Range(
        "batches from 1, or a share above 0, to 1", "1.0 is each epoch.", 1e-9, share=True
    ),
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.limit_train_batches": Range(
        "batches from 1, or a share above 0, to 1", "1.0 takes all.", 1e-9, share=True
    ),
    "trainer.limit_val_batches": _BATCHES,
    "trainer.limit_test_batches": _BATCHES,
    "trainer.limit_predict_batches": _BATCHES,
    "trainer.overfit_batches": _BATCHES,
    "trainer.fast_dev_run": Range("batches from 0, or true", "true runs one.", 0),
    "trainer.num_sanity_val_steps": Range("batches from 0, or -1 for all", "0 is usual.", -1),
    "trainer.num_nodes": _COUNT,
    "trainer.reload_dataloaders_every_n_epochs": Range("epochs from 0", "0 is usual.", 0),
}


def refuse_out_of_range(settings: Any) -> None:
    """Refuse numbers out of their range, and pairs that contradict each other.

    Args:
        settings: The parsed arguments of a verb.

    Raises:
        ConfigError: One is out of range.
    """
    for key, wanted in RANGES.items():
        value = settings.get(key)
        if not wanted.holds(value):
            raise ConfigError(f"expected {wanted.words} but got {value!r} ({key}). Hint: {wanted.usual}")
    trainer = settings.trainer
    endless = trainer.max_epochs == -1 and trainer.max_steps == -1 and not trainer.max_time
    for key, bad in (("max_epochs", trainer.max_epochs == 0 or endless), ("max_steps", trainer.max_steps == 0)):
        if bad:
            hint = "at least 1; max_epochs -1 goes with max_steps or max_time."
            raise ConfigError(f"expected a fit with an end but got {trainer[key]} (trainer.{key}). Hint: {hint}")
    for least, most in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        low, high = trainer[least], trainer[most]
        if low and high and 0 < high < low:
            raise ConfigError(
                f"expected {least} up to {most} but got {low} and {high} (trainer.{least}, trainer.{most}). "
                f"Hint: leave {least} out."
            )
