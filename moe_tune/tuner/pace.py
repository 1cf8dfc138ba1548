"""When a scheduler of the learning rate moves."""

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from moe_tune.base.errors import ConfigError


def paced(scheduler: Any, steps: Callable[[], float]) -> dict[str, Any]:
    """Return a scheduler as Lightning takes it: every step, or after a validation if it waits for a plateau.

    Args:
        scheduler: The scheduler.
        steps: Returns the optimiser steps of the whole fit.

    Raises:
        ConfigError: It waits for a plateau of nothing, or ends before the fit.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        monitor = getattr(scheduler, "monitor", None)
        if monitor is None:
            raise ConfigError(
                "expected a metric to watch but got torch's ReduceLROnPlateau, which names none (lr_scheduler). Hint: "
                "--lr_scheduler lightning.pytorch.cli.ReduceLROnPlateau --lr_scheduler.monitor validation/loss."
            )
        return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < (needed := steps()):
        raise ConfigError(
            f"expected a cycle of the fit's {needed:,.0f} steps or more but got {scheduler.total_steps:,} "
            f"(lr_scheduler.total_steps). Hint: --lr_scheduler.total_steps {needed:.0f}."
        )
    return {"scheduler": scheduler, "interval": "step"}
