"""What is known of each layer since the last step, and the few numbers that say it of all layers."""

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.stats.load import load_columns

PREFIX = "routing/"
"""What the keys of the logged values begin with."""
TABLE = f"{PREFIX}layers"
"""The key of the table of layers."""
EXTREMES = {
    "entropy_all_min": ("entropy_all_mean", "min"),
    "entropy_all_max": ("entropy_all_mean", "max"),
    "entropy_topk_min": ("entropy_topk_mean", "min"),
    "entropy_topk_max": ("entropy_topk_mean", "max"),
    "activated_experts_min": ("activated", "min"),
    "never_activated_share_max": ("never_share", "max"),
    "load_imbalance_max": ("load_max_over_mean", "max"),
    "load_cv": ("load_cv", "mean"),
    "load_cv_max": ("load_cv", "max"),
    "tokens": ("tokens", "max"),
}
"""Beside the means over layers: the column of the layers' table, and what is taken of it."""


def layer_frame(layers: tuple[int, ...], tables: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return one row per layer.

    Args:
        layers: Indices of the layers.
        tables: What ``GateEntropy`` and ``ExpertActivation`` have counted.

    Returns:
        ``layer``, ``tokens``, the gate's entropies (nats), ``activated`` (experts chosen at least once),
        ``never_share``, ``load_max_over_mean``, ``load_cv``; NaN where nothing is known.
    """
    whole = ["tokens", *(name for name, axes in GateEntropy.axes.items() if axes == "L")]
    columns = {name: tables[name].numpy() for name in whole} | load_columns(tables["count"].numpy())
    return pd.DataFrame({"layer": layers} | columns)


def brief_values(tables: Mapping[str, Tensor], frame: pd.DataFrame) -> dict[str, float]:
    """Return means over layers, named as in the history of a run, and extremes; what is not known is left out.

    Args:
        tables: What the metrics have counted.
        frame: The same as ``layer_frame`` has it.
    """
    values = GateEntropy.summary(dict(tables)) | ExpertActivation.summary(dict(tables))
    values |= {key: float(frame[column].agg(how)) for key, (column, how) in EXTREMES.items()}
    return {f"{PREFIX}{key}": value for key, value in values.items() if value == value}
