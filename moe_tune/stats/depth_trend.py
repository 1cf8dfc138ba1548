"""Whether the gate's entropy rises or falls from early to late layers, question by question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from moe_tune.stats.ratios import Floats
from moe_tune.stats.standard_error import cluster_reach


@dataclass(frozen=True, slots=True)
class DepthTrend:
    """The mean slope of entropy over layers, NaN where it is not defined.

    Args:
        slope: Nats per layer, mean over questions.
        low: Lower end of its 95 % interval.
        high: Upper end.
        spearman: Rank correlation of the layers' mean entropy with depth, a description only.
        questions: Questions counted.
        clusters: Independent groups of questions; as many as questions when none are known.
    """

    slope: float
    low: float
    high: float
    spearman: float
    questions: int
    clusters: int


def depth_trend(entropy_QL: Floats, layers: Sequence[int], cluster_Q: NDArray[np.intp] | None = None) -> DepthTrend:
    """Return the mean least-squares slope of a question's entropy over the layer index, with its 95 % interval.

    Formula, D the mean of the slopes ``d_i``, ``u_g = sum_{i in g} (d_i - D) / n`` the influence of a cluster of C:
    ``SE = sqrt(C / (C - 1) sum_g u_g^2)``, interval ``D -+ t_{C-1} SE``.

    Args:
        entropy_QL: Mean entropy of each question's tokens, in nats; questions with a NaN are left out.
        layers: Index of each layer in the model, in increasing order.
        cluster_Q: Number of the group a question belongs to, 0 and up: questions of one text are one group; ``None``
            takes every question as independent.

    Shape:
        - (Q, L), L numbers, (Q,).

    Reference:
        Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13 (cluster-robust variance)

    Example:
        >>> trend = depth_trend(np.array([[1.0, 1.5, 2.0], [1.0, 1.6, 2.2]]), (0, 1, 2))
        >>> round(trend.slope, 3), round(trend.spearman, 3)
        (0.55, 1.0)
    """
    known = ~np.isnan(entropy_QL).any(axis=1)
    entropy_QL = entropy_QL[known]
    questions = len(entropy_QL)
    if questions == 0 or len(layers) < 2:
        return DepthTrend(math.nan, math.nan, math.nan, math.nan, questions, questions)
    depth_L = np.asarray(layers, dtype=np.float64) - np.mean(layers)
    slope_Q = entropy_QL @ depth_L / np.sum(depth_L**2)
    slope = float(slope_Q.mean())
    influence_Q = (slope_Q - slope) / questions
    reach, clusters = cluster_reach(influence_Q, None if cluster_Q is None else cluster_Q[known])
    mean_L = entropy_QL.mean(axis=0)
    spearman = float(spearmanr(depth_L, mean_L).statistic) if np.ptp(mean_L) > 0 else math.nan
    return DepthTrend(slope, slope - reach, slope + reach, spearman, questions, clusters)
