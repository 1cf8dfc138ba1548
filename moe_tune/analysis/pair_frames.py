"""The data frames of the chosen experts' weights by rank, and of the pairs of experts that fire together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_tune.stats.ratios import Tables, ratio

PAIRS = 50
"""Pairs kept per layer."""


def weight_frame(tables: Tables, layers: Sequence[int]) -> pd.DataFrame:
    """Return the mean weight of the 1st to Kth chosen expert of each layer, and its share of the sum of these means.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (the table of sorted weights)
    """
    weight_LK = tables["sorted_weight_mean"]
    depth, slots = weight_LK.shape
    return pd.DataFrame(
        {
            "layer": np.repeat(np.asarray(layers), slots),
            "rank": np.tile(np.arange(1, slots + 1), depth),
            "weight_mean": weight_LK.reshape(-1),
            "share_mean": ratio(weight_LK, weight_LK.sum(axis=1, keepdims=True)).reshape(-1),
        }
    )


def co_activation_frame(tables: Tables, layers: Sequence[int]) -> pd.DataFrame:
    """Return the pairs of experts that fire together, per layer the 50 of largest count times lift.

    Formula: ``conditional = P(other | expert)``, ``lift = P(both) / (P(expert) P(other))``, shares of tokens. The
    expert is the one of the pair with the lower index.

    Reference:
        This project's; lift as in Brin et al. 1997, https://doi.org/10.1145/253260.253325
    """
    first, second = np.triu_indices(tables["count"].shape[1], k=1)
    frames = []
    for layer, both_EE, count_E, tokens in zip(
        layers, tables["co_count"], tables["count"], tables["tokens"], strict=True
    ):
        both = both_EE[first, second]
        frame = pd.DataFrame(
            {
                "layer": layer,
                "expert": first,
                "other": second,
                "count": both,
                "conditional": ratio(both, count_E[first]),
                "lift": ratio(both * float(tokens), count_E[first] * count_E[second].astype(np.float64)),
            }
        )
        order = (frame["count"] * frame["lift"]).where(frame["count"] > 0).dropna()
        frames.append(frame.loc[order.sort_values(ascending=False, kind="stable").index[:PAIRS]])
    return pd.concat(frames, ignore_index=True)
