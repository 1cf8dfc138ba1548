"""The words W&B finds a run by: its group, its tags, and the best values that its summary keeps."""

import math
import re
from collections.abc import Callable
from typing import Any

EXTREMES: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "validation/accuracy": ("validation/accuracy_max", max),
    "validation/loss": ("validation/loss_min", min),
}
"""What is logged every epoch, and under which key its best value stands in the summary.

Keys of their own, not ``define_metric(summary="max")``: that would put ``{"max": 0.5}`` in place of the last value,
and the summary of a sweep's metric has to be a number.
"""
LONGEST_TAG = 64
"""Characters; W&B refuses longer ones."""


def arm_of(name: str) -> str | None:
    """Return what a run directory's name says of the run without its seed; ``None`` for a name of another shape.

    Example:
        >>> arm_of("nano-RetunedHead-s0-0123abcd"), arm_of("mine")
        ('nano-RetunedHead', None)
    """
    found = re.match(r"(.+)-s\d+-", name)
    return found[1] if found else None


def tags_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the tags of a run: class of the head, classes of the losses, scope, and the base model's name.

    Example:
        >>> tags_of({"model.head.class_path": "a.JitterHead", "model.scope": "all", "model.base.path": "allenai/OLMoE"})
        ('JitterHead', 'scope all', 'OLMoE')
    """
    losses = [key for key in config if re.fullmatch(r"model\.losses\.\w+\.class_path", key)]
    classes = [str(config[key]).rpartition(".")[2] for key in ("model.head.class_path", *losses) if key in config]
    scope = [f"scope {config['model.scope']}"] if "model.scope" in config else []
    base = str(config.get("model.base.path", "")).rstrip("/").rpartition("/")[2]
    tags = [*classes, *scope, *([base] if base else [])]
    return tuple(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags))


def improved(metrics: dict[str, Any], summary: Any) -> dict[str, float]:
    """Return the best values so far of what was just logged, under their keys in the summary.

    Example:
        >>> improved({"validation/accuracy": 0.5, "validation/loss": 1.5}, {"validation/accuracy_max": 0.75})
        {'validation/accuracy_max': 0.75, 'validation/loss_min': 1.5}
    """
    best = {}
    for key, (name, better) in EXTREMES.items():
        value = metrics.get(key)
        if isinstance(value, float) and math.isfinite(value):  # an image may have the key of a number
            before = summary.get(name)
            best[name] = value if before is None else better(float(before), value)
    return best
