"""Rank correlation of two statistics of the same questions, with an interval over questions."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from moe_tune.stats.ratios import Floats

DRAWS = 1000
"""Bootstrap draws of questions."""
FEWEST = 3
"""Experts that both statistics have to know; of two any ranks agree or oppose."""

Statistic = Callable[[Floats], Floats]
"""Turns the number of times that each question is drawn, (Q,), into a value per expert, (E,); NaN is not known."""


class RankCorrelation(NamedTuple):
    """A rank correlation and its 95 % interval.

    Args:
        value: Of all questions, each once; NaN where fewer than three experts are known, or all are alike.
        low: Lower end.
        high: Upper end.
        experts: How many it is over.
    """

    value: float
    low: float
    high: float
    experts: int


def spearman(first_E: Floats, second_E: Floats) -> float:
    """Return Spearman's rank correlation over the experts for which both are known.

    Formula: Pearson's correlation of the mid-ranks.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0, np.nan]), np.array([10.0, 20.0, 15.0, 0.0]))
        0.5
    """
    known_E = ~(np.isnan(first_E) | np.isnan(second_E))
    if known_E.sum() < FEWEST:
        return float("nan")
    first, second = (rankdata(one[known_E]) for one in (first_E, second_E))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float("nan") if scale == 0 else float((first * second).sum() / scale)


def rank_correlation(
    first: Statistic, second: Statistic, cluster_Q: NDArray[np.intp], draws: int = DRAWS, seed: int = 0
) -> RankCorrelation:
    """Return the rank correlation of two statistics over experts, and a percentile interval over questions.

    Whole groups of equal questions are drawn again, and both statistics are computed anew from the same draw. The
    ranks of noisy estimates correlate less than those of what they estimate: a low value may also be too few questions.

    Args:
        first: A statistic.
        second: The other.
        cluster_Q: Number of the group a question belongs to.
        draws: Bootstrap draws.
        seed: Of the draws: the same seed, the same interval.

    Reference:
        Spearman 1904, "The proof and measurement of association between two things", American Journal of Psychology 15.
    """
    once_Q = np.ones(len(cluster_Q))
    first_E, second_E = first(once_Q), second(once_Q)
    experts = int((~(np.isnan(first_E) | np.isnan(second_E))).sum())
    group_Q = np.unique(cluster_Q, return_inverse=True)[1]
    groups, draw = int(group_Q.max()) + 1, np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        times_C = np.bincount(draw.integers(0, groups, groups), minlength=groups)
        times_Q = times_C[group_Q].astype(np.float64)
        found.append(spearman(first(times_Q), second(times_Q)))
    known = np.array(found)[~np.isnan(found)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return RankCorrelation(spearman(first_E, second_E), float(low), float(high), experts)
