"""The words W&B finds a run by: its group, its tags, and the best values that its summary keeps."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.runs.metrics_file import logged_rows
from moe_tune.stats.paired import PairedResult

EXTREMES: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "validation/accuracy": ("validation/accuracy_max", max),
    "validation/loss": ("validation/loss_min", min),
    "validation_text/loss": ("validation_text/loss_min", min),
}
"""What is logged every epoch, and under which key its best value stands in the summary.

Keys of their own, not ``define_metric(summary="max")``: that would put ``{"max": 0.5}`` in place of the last value,
and the summary of a sweep's metric has to be a number.
"""
MOST_ROWS = 10_000
"""Rows of one table that W&B shows; what comes after is cut."""
LONGEST_TAG = 64
"""Characters; W&B refuses longer ones."""


def arm_of(name: str) -> str | None:
    """Return the configuration and head in a run directory's name; ``None`` for a name of another shape.

    Example:
        >>> arm_of("nano-RetunedHead-s0-0123abcd"), arm_of("nano-RetunedHead-epochs1-s0-0123abcd"), arm_of("mine")
        ('nano-RetunedHead', 'nano-RetunedHead', None)
    """
    found = re.match(r"(.+-[A-Z]\w*)(?:-[a-z][\w.]*)*-s\d+-", name) or re.match(r"(.+)-s\d+-", name)
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


def table_parts(key: str, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a table in parts that W&B shows whole, the first under its own key and the others under numbered ones.

    Example:
        >>> {key: len(part) for key, part in table_parts("test/experts", pd.DataFrame({"a": range(12_000)})).items()}
        {'test/experts': 10000, 'test/experts_2': 2000}
    """
    starts = range(0, max(len(frame), 1), MOST_ROWS)
    return {
        f"{key}_{number}" if number > 1 else key: frame.iloc[start : start + MOST_ROWS]
        for number, start in enumerate(starts, start=1)
    }


def gains(compared: Mapping[str, PairedResult]) -> dict[str, float]:
    """Return the differences of accuracy to the pretrained router, 0 to 1, as a run's summary keeps them.

    Args:
        compared: The paired result by split.
    """
    kept: dict[str, float] = {}
    for split, result in compared.items():
        low, high = result.ci95
        own = {"": result.diff, "_low": low, "_high": high}
        kept |= {f"{split}/accuracy_gain{end}": float(value) for end, value in own.items()}
    return kept


def curves_and_level(metrics: Path, key: str) -> tuple[list[int], list[float], float] | None:
    """Return the steps and values of a key of the history, and the pretrained router's value.

    Args:
        metrics: A run's ``metrics.jsonl``.
        key: The key, such as ``validation/accuracy``.

    Returns:
        ``None`` where one of them was not logged.
    """
    rows = logged_rows(metrics)
    levels = [row[f"base_{key}"] for row in rows if row.get(f"base_{key}") is not None]
    known = [(int(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
    return ([step for step, _ in known], [value for _, value in known], float(levels[-1])) if levels and known else None


def extremes(history: Path) -> dict[str, float]:
    """Return the best values of a whole history under their keys in the summary; a resumed run has two processes'."""
    best: dict[str, float] = {}
    for row in logged_rows(history):
        best |= improved(row, best)
    return best


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
