"""What a run logs, by which sweeps, callbacks and schedulers may judge it."""

from collections.abc import Iterator
from typing import Any

from moe_tune.base.errors import ConfigError, did_you_mean

LOGGED = (
    *("accuracy", "loss", "entropy_all", "entropy_topk", "activated_experts", "never_activated_share"),
    *("load_imbalance", "expert_accuracy_spread"),
)
"""What a run logs of its validation; a test compares it with a run."""
METRICS = (
    *(f"{split}/{name}" for split in ("validation", "train") for name in LOGGED),
    "validation_text/loss",  # where text is trained on
)
ALWAYS = ("epoch", "step")
"""What Lightning's callbacks know beside."""


def is_logged(name: str) -> bool:
    """Return whether a run logs a value under this name.

    Example:
        >>> is_logged("validation/accuracy"), is_logged("train/loss_z"), is_logged("val_loss")
        (True, True, False)
    """
    return name in (*METRICS, *ALWAYS) or name.startswith(("train/loss_", "lr-"))


def refuse_unlogged(settings: Any) -> None:
    """Refuse a callback or a scheduler that waits for a value no run logs, or for one of the test.

    Where a callback of the user's own may log more, names are taken as they are.

    Raises:
        ConfigError: There is one.
    """
    own = False
    waited = []
    for key, one in _objects(settings):
        own = own or not str(one.class_path).startswith(("moe_tune.", "lightning.pytorch."))
        monitor = one.get("init_args.monitor")
        if monitor is not None:
            waited.append((f"{key}.init_args.monitor", str(monitor)))
    for key, monitor in waited:
        if monitor.startswith("test"):
            hint = "validation/accuracy; a choice by the test split cannot be tested on it."
            raise ConfigError(f"expected a value of the validation split but got {monitor!r} ({key}). Hint: {hint}")
        if not own and not is_logged(monitor):
            raise ConfigError(
                f"expected a value that runs log but got {monitor!r} ({key}). Hint: {did_you_mean(monitor, METRICS)}"
            )


def _objects(settings: Any) -> Iterator[tuple[str, Any]]:
    callbacks = settings.trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    for number, one in enumerate(callbacks):
        if "class_path" in one:
            yield f"trainer.callbacks[{number}]", one
    scheduler = settings.get("lr_scheduler")
    if scheduler is not None and str(scheduler.class_path).endswith("ReduceLROnPlateau"):
        yield "lr_scheduler", scheduler
