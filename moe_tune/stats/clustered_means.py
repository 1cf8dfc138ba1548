"""Many means over the same questions, each with an interval and a p value that take equal questions as one."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from moe_tune.stats.ratios import Floats, ratio
from moe_tune.stats.standard_error import FEW_CLUSTERS, cluster_p, critical_value


@dataclass(frozen=True, slots=True, eq=False)
class ClusteredMeans:
    """Means over questions, arrays of one length; NaN where there are fewer than two groups of questions.

    Attributes:
        value: The means; known from one question on.
        low: Lower ends of their 95 % intervals.
        high: Upper ends.
        p: Two-sided p values that the mean is 0.
        spread: Standard deviation over questions.
        questions: Questions that count.
        clusters: Groups of equal ones among them.
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats
    spread: Floats
    questions: NDArray[np.intp]
    clusters: NDArray[np.intp]

    @property
    def standardised(self) -> Floats:
        """The means in standard deviations; 0 where nothing spreads."""
        return np.where(self.spread > 0, np.nan_to_num(ratio(self.value, self.spread)), 0.0)


def clustered_means(
    value_IQ: NDArray[np.floating], cluster_Q: NDArray[np.intp], counts_IQ: NDArray[np.bool_] | None = None
) -> ClusteredMeans:
    """Return the mean of each row over the questions that count in it.

    Formula: ``m +- t_{C-1} sqrt(C / (C - 1) sum_g u_g^2)``, ``u_g = sum_{i in g} (v_i - m) / n`` over the C groups of
    equal questions; with fewer than 30 groups a wild cluster bootstrap where it is wider, as in ``paired``.

    Args:
        value_IQ: Values.
        cluster_Q: Number of the group a question belongs to.
        counts_IQ: Which questions count in each row; ``None`` takes all.

    Reference:
        Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13 (cluster-robust variance)

    Example:
        >>> found = clustered_means(np.array([[1.0, 3.0, 1.0, 3.0]]), np.arange(4))
        >>> found.value.tolist(), found.clusters.tolist()
        ([2.0], [4])
    """
    rows = len(value_IQ)
    group_Q = np.unique(cluster_Q, return_inverse=True)[1]
    order_Q = np.argsort(group_Q, kind="stable")
    starts = np.flatnonzero(np.diff(group_Q[order_Q], prepend=-1))
    value, low, high, p, spread = (np.full(rows, np.nan) for _ in range(5))
    questions, clusters = np.zeros(rows, dtype=np.intp), np.zeros(rows, dtype=np.intp)
    for row in range(rows):
        counts_Q = np.ones(len(cluster_Q), dtype=bool) if counts_IQ is None else counts_IQ[row]
        questions[row] = counts_Q.sum()
        if not questions[row]:
            continue
        value_Q = value_IQ[row].astype(np.float64)
        value[row] = value_Q[counts_Q].mean()
        influence_Q = np.where(counts_Q, (value_Q - value[row]) / questions[row], 0.0)
        there_C = np.add.reduceat(counts_Q[order_Q].astype(np.intp), starts) > 0
        sums_C = np.add.reduceat(influence_Q[order_Q], starts)[there_C]
        clusters[row] = len(sums_C)
        if len(sums_C) < 2:
            continue
        spread[row] = value_Q[counts_Q].std(ddof=1)
        reach, p[row] = _reach(value[row], sums_C)
        low[row], high[row] = value[row] - reach, value[row] + reach
    return ClusteredMeans(value, low, high, p, spread, questions, clusters)


def _reach(mean: float, sums_C: Floats) -> tuple[float, float]:
    clusters = len(sums_C)
    se = math.sqrt(clusters / (clusters - 1) * float(np.sum(sums_C**2)))
    if clusters >= FEW_CLUSTERS and se > 0:
        return float(student.ppf(0.975, clusters - 1)) * se, 2 * float(student.sf(abs(mean) / se, clusters - 1))
    return critical_value(0.95, clusters - 1, sums_C) * se, cluster_p(mean, sums_C)
