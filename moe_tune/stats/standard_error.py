"""Standard errors of a mean, paired differences above all: independent, cluster-robust, over seeds, few clusters."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

FEW_CLUSTERS = 30
"""Below this many clusters the t quantile is replaced by a wild cluster bootstrap."""


def paired_se(diff_Q: NDArray[np.float64]) -> float:
    """Return the standard error of the mean of independent paired differences.

    Formula: ``sqrt(sum_i (d_i - D)^2 / (n (n - 1)))``
    """
    return float(np.std(diff_Q, ddof=1) / math.sqrt(len(diff_Q)))


def cluster_sums(diff_Q: NDArray[np.float64], cluster_Q: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the influence of each cluster on the mean difference: ``sum_{i in g} (d_i - D) / n``."""
    return _sum_by(cluster_Q, (diff_Q - diff_Q.mean()) / len(diff_Q))


def macro_sums(
    diff_Q: NDArray[np.float64], cluster_Q: NDArray[np.intp], subject_Q: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the influence of a cluster on the mean of subject means: ``sum_{i in g} (d_i - D_j(i)) / (J n_j(i))``."""
    size_J = np.bincount(subject_Q)
    mean_J = _sum_by(subject_Q, diff_Q) / size_J
    return _sum_by(cluster_Q, (diff_Q - mean_J[subject_Q]) / (len(size_J) * size_J[subject_Q]))


def cluster_se(sums_C: NDArray[np.float64]) -> float:
    """Return the cluster-robust standard error ``sqrt(C / (C - 1) * sum_g u_g^2)``."""
    clusters = len(sums_C)
    return math.sqrt(clusters / (clusters - 1) * float(np.sum(sums_C**2)))


def cluster_reach(influence_Q: NDArray[np.float64], cluster_Q: NDArray[np.intp] | None = None) -> tuple[float, int]:
    """Return half the width of a mean's 95 % interval, and the number of independent groups of questions.

    Formula, ``u_g`` the sum of the influences of group g, C groups: ``t_{C-1} sqrt(C / (C - 1) sum_g u_g^2)``

    Args:
        influence_Q: What each question adds to the estimate's error; their sum is 0.
        cluster_Q: Number of the group a question belongs to, 0 and up; ``None`` takes every question as independent.

    Shape:
        - (Q,), (Q,); two numbers, NaN the first where there are fewer than two groups.

    Reference:
        Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13 (cluster-robust variance)

    Example:
        >>> reach, clusters = cluster_reach(np.array([0.1, -0.1, 0.2, -0.2]), np.array([0, 1, 0, 1]))
        >>> round(reach, 2), clusters
        (7.62, 2)
    """
    group_Q = np.arange(len(influence_Q)) if cluster_Q is None else np.unique(cluster_Q, return_inverse=True)[1]
    influence_C = _sum_by(group_Q, influence_Q)
    clusters = len(influence_C)
    if clusters < 2:
        return math.nan, clusters
    return float(student.ppf(0.975, clusters - 1)) * cluster_se(influence_C), clusters


def equivalence_p(diff: float, se: float, df: float, margin: float) -> float:
    """Return the p value of two one-sided t tests that a difference lies within a margin around 0.

    Reference:
        Schuirmann, 1987, "A comparison of the two one-sided tests procedure and the power approach", Journal of
        Pharmacokinetics and Biopharmaceutics 15(6).

    Example:
        >>> round(equivalence_p(0.0, 0.005, 1000, 0.01), 4)
        0.0229
    """
    return float(student.sf((margin - abs(diff)) / se, df))


def total_se(se_clusters: float, clusters: int, diff_S: NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error over questions and seeds together, and its degrees of freedom.

    Formula: ``SE^2 = SE_c^2 + sd(D_s)^2 / S``, Welch-Satterthwaite degrees of freedom
    ``SE^4 / (SE_c^4 / (C - 1) + SE_s^4 / (S - 1))``. It counts the interaction of question and seed twice, so it errs
    on the wide side. One seed: ``SE_c`` with ``C - 1``.

    Args:
        se_clusters: Cluster-robust standard error of the mean over seeds.
        clusters: Number of clusters C, at least 2.
        diff_S: Difference of each seed's run.
    """
    seeds = len(diff_S)
    if seeds == 1:
        return se_clusters, float(clusters - 1)
    se_seeds = float(np.std(diff_S, ddof=1)) / math.sqrt(seeds)
    total = math.hypot(se_clusters, se_seeds)
    if total == 0:
        return 0.0, float(clusters - 1)
    share_clusters, share_seeds = (se_clusters / total) ** 4, (se_seeds / total) ** 4
    return total, 1 / (share_clusters / (clusters - 1) + share_seeds / (seeds - 1))


def critical_value(level: float, df: float, sums_C: NDArray[np.float64]) -> float:
    """Return how many standard errors an interval reaches to each side."""
    quantile = float(student.ppf((1 + level) / 2, df))
    if len(sums_C) >= FEW_CLUSTERS:
        return quantile
    return max(quantile, float(np.quantile(_wild_t(sums_C), level)))


def cluster_p(diff: float, sums_C: NDArray[np.float64]) -> float:
    """Return the two-sided p value of a mean difference whose questions come in clusters of equal content.

    Formula: ``P[|t_{C-1}| >= |D| / SE_c]``; with few clusters the larger of it and the wild cluster bootstrap's; where
    nothing spreads, the sign test over clusters, ``2 / 2^C``.

    Args:
        diff: Mean difference D.
        sums_C: Influence of each cluster, as ``cluster_sums`` gives it.
    """
    clusters, se = len(sums_C), cluster_se(sums_C)
    if diff == 0:
        return 1.0
    if se == 0:
        return float(min(1.0, 2 * 0.5**clusters))
    t = abs(diff) / se
    p = 2 * float(student.sf(t, clusters - 1))
    return p if clusters >= FEW_CLUSTERS else max(p, float(np.mean(_wild_t(sums_C) >= t)))


def _sum_by(group_Q: NDArray[np.intp], value_Q: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(group_Q, weights=value_Q), dtype=np.float64)


def _wild_t(sums_C: NDArray[np.float64], draws: int = 9_999) -> NDArray[np.float64]:
    """Draw |t*|: every cluster's influence keeps its size and takes a random sign (Cameron et al., 2008)."""
    clusters = len(sums_C)
    sign_BC = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(draws, clusters))
    drawn_BC = sign_BC * sums_C
    shift_B = drawn_BC.sum(axis=1)
    spread_B = np.sqrt(clusters / (clusters - 1) * np.sum((drawn_BC - shift_B[:, None] / clusters) ** 2, axis=1))
    t_B: NDArray[np.float64] = np.divide(np.abs(shift_B), spread_B, out=np.zeros(draws), where=spread_B > 0)
    return t_B
