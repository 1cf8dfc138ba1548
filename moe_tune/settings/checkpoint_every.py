"""How often a fit saves what it goes on from."""

import math
from dataclasses import dataclass

from moe_tune.base.errors import require


@dataclass(frozen=True, slots=True)
class CheckpointEvery:
    """When a fit saves between optimiser steps: after so many minutes or steps, whichever comes first.

    It changes no result and is no part of what a run is. ``null`` for both saves at the ends of epochs alone.

    Args:
        minutes: Time between two saves, above 0; ``null`` saves by steps alone.
        steps: Optimiser steps between two saves, from 1; ``null`` saves by time alone.

    Raises:
        ConfigError: One is out of range.
    """

    minutes: float | None = 2.0
    steps: int | None = None

    def __post_init__(self) -> None:
        minutes, steps = self.minutes, self.steps
        timed = minutes is None or (minutes > 0 and math.isfinite(minutes))
        require(timed, "minutes above 0", minutes, "checkpoint_every.minutes", "2 is the default; null is never.")
        require(steps is None or steps > 0, "steps from 1", steps, "checkpoint_every.steps", "null is never.")
