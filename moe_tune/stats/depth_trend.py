"""Whether the gate's entropy rises or falls from early to late layers, question by question."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from scipy.stats import t as student

from moe_tune.stats.ratios import Floats
from moe_tune.stats.standard_error import cluster_reach

TOLERATED = 0.1
"""Share of the range of the layers' means that a later layer may lie below an earlier one in a rise with depth."""


@dataclass(frozen=True, slots=True)
class Fall:
    """A pair of layers of which the later surely lies below the earlier one.

    Args:
        earlier: Index of the earlier layer in the model.
        later: Index of the later one.
        by: Nats, mean over questions.
        least: What it is at least, the end of Holm's interval over all pairs.
    """

    earlier: int
    later: int
    by: float
    least: float


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
        falls: The pairs of layers that surely fall by more than a tenth of the range of the layers' means, the deepest
            fall first.
        range: Largest less smallest of the layers' means, nats.
    """

    slope: float
    low: float
    high: float
    spearman: float
    questions: int
    clusters: int
    falls: tuple[Fall, ...] = ()
    range: float = math.nan


def depth_trend(entropy_QL: Floats, layers: Sequence[int], cluster_Q: NDArray[np.intp] | None = None) -> DepthTrend:
    """Return the mean least-squares slope of a question's entropy over the layer index, with its 95 % interval.

    Formula, D the mean of the slopes ``d_i``, ``u_g = sum_{i in g} (d_i - D) / n`` the influence of a cluster of C:
    ``SE = sqrt(C / (C - 1) sum_g u_g^2)``, interval ``D -+ t_{C-1} SE``. A slope does not see a curve that rises and
    falls again: for every pair of layers i < j the interval of ``mean(h_j - h_i)``, by Holm's steps over all pairs, is
    held against a tenth of the range of the means.

    Args:
        entropy_QL: Mean entropy of each question's tokens, in nats; questions with a NaN are left out.
        layers: Index of each layer in the model, in increasing order.
        cluster_Q: Number of the group a question belongs to, 0 and up: questions of one text are one group; ``None``
            takes every question as independent.

    Shape:
        - (Q, L), L numbers, (Q,).

    Reference:
        Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13 (cluster-robust variance); Holm 1979,
        https://www.jstor.org/stable/4615733 (steps over pairs)

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
    group_Q = np.arange(questions) if cluster_Q is None else np.unique(cluster_Q[known], return_inverse=True)[1]
    reach, clusters = cluster_reach(influence_Q, group_Q)
    mean_L = entropy_QL.mean(axis=0)
    spearman = float(spearmanr(depth_L, mean_L).statistic) if np.ptp(mean_L) > 0 else math.nan
    falls = _falls(entropy_QL, layers, group_Q, clusters) if clusters > 1 else ()
    return DepthTrend(slope, slope - reach, slope + reach, spearman, questions, clusters, falls, float(np.ptp(mean_L)))


def _falls(entropy_QL: Floats, layers: Sequence[int], group_Q: NDArray[np.intp], clusters: int) -> tuple[Fall, ...]:
    """Return the pairs that fall by more than is tolerated, found by Holm's steps: the surest first, at 5 % / pairs."""
    mean_L = entropy_QL.mean(axis=0)
    tolerated = TOLERATED * float(np.ptp(mean_L))
    influence_CL = np.zeros((clusters, len(layers)))
    np.add.at(influence_CL, group_Q, (entropy_QL - mean_L) / len(entropy_QL))
    covariance_LL = clusters / (clusters - 1) * influence_CL.T @ influence_CL
    first_P, second_P = np.triu_indices(len(layers), k=1)
    variance_P = covariance_LL[first_P, first_P] + covariance_LL[second_P, second_P]
    error_P = np.sqrt(np.maximum(variance_P - 2 * covariance_LL[first_P, second_P], 0))
    beyond_P = mean_L[first_P] - mean_L[second_P] - tolerated
    # Without an error a fall is certain, and a rise is none.
    sureness_P = np.where(
        error_P > 0, beyond_P / np.where(error_P > 0, error_P, 1), np.where(beyond_P > 0, np.inf, -np.inf)
    )
    falls = []
    for step, pair in enumerate(np.argsort(-np.nan_to_num(sureness_P), kind="stable")):
        reach = float(student.ppf(1 - 0.025 / (len(first_P) - step), clusters - 1)) * error_P[pair]
        if beyond_P[pair] - reach <= 0:
            break
        first, second, by = first_P[pair], second_P[pair], float(beyond_P[pair]) + tolerated
        falls.append(Fall(layers[first], layers[second], by, by - float(reach)))
    return tuple(sorted(falls, key=lambda fall: -fall.by))
