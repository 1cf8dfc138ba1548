"""A value that changes over training: constant, linear or cosine, with an optional warm-up."""

import math
from typing import Literal

ScheduleKind = Literal["constant", "linear", "cosine"]


def scheduled(kind: ScheduleKind, start: float, end: float, progress: float, warmup: float = 0.0) -> float:
    """Return the value at a share of training.

    Example:
        >>> scheduled("linear", 1.0, 0.5, 0.5)
        0.75
        >>> round(scheduled("cosine", 1.0, 0.0, 0.5), 6)
        0.5
    """
    if progress < warmup:
        return start * progress / warmup
    share = (progress - warmup) / (1 - warmup) if warmup < 1 else 1.0
    if kind == "constant":
        return start
    if kind == "linear":
        return start + (end - start) * share
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
