"""The tables of an evaluation: each expert's usage and accuracy with intervals, and each layer's numbers."""

import numpy as np
import pandas as pd

from moe_tune.base.plugins import concrete_subclasses
from moe_tune.metrics.base import RoutingMetric
from moe_tune.stats.accuracy_estimates import raw_accuracy, shrunk_accuracy
from moe_tune.stats.load import load_columns
from moe_tune.stats.ratios import ratio

EXPERT_COLUMNS = (
    "layer", "expert", "count", "usage", "weight_mass", "questions", "correct", "accuracy", "accuracy_low",
    "accuracy_high", "shrunk", "shrunk_low", "shrunk_high",
)  # fmt: skip


def with_estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a routing table with each expert's usage and its accuracy: raw, and drawn towards its layer's mean.

    All of it is associational: which questions an expert gets is not drawn by lot.

    Returns:
        The table with ``usage`` (share of the layer's tokens), ``accuracy`` and ``shrunk``, each of the last two with
        the ends of its 95 % interval; NaN where an expert has no questions.
    """
    frame = frame.copy()
    frame["usage"] = ratio(frame["count"].to_numpy(), frame["tokens"].to_numpy())
    correct, questions = frame["correct"].to_numpy(), frame["questions"].to_numpy()
    frame[["accuracy", "accuracy_low", "accuracy_high"]] = np.stack(raw_accuracy(correct, questions), axis=-1)
    shrunk = np.full((len(frame), 3), np.nan)
    for rows in frame.groupby(["scope", "layer"], sort=False).indices.values():
        shrunk[rows] = np.stack(shrunk_accuracy(correct[rows], questions[rows]), axis=-1)
    frame[["shrunk", "shrunk_low", "shrunk_high"]] = shrunk
    return frame


def expert_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the experts in use at the answer scope, as loggers show them."""
    used = (frame["scope"] == "answer") & (frame["count"] > 0)
    return frame.loc[used, list(EXPERT_COLUMNS)].reset_index(drop=True)


def layer_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per scope and layer: how its load is spread, and what each metric says of the whole layer."""
    axes = {name: axes for kind in concrete_subclasses(RoutingMetric).values() for name, axes in kind.axes.items()}
    whole = [name for name, axis in axes.items() if axis == "L" and name != "tokens"]
    layers = frame.groupby(["scope", "layer"], sort=False)
    count_LE = np.stack([count.to_numpy() for _, count in layers["count"]])
    return layers[["tokens", *whole]].first().assign(**load_columns(count_LE)).reset_index()
