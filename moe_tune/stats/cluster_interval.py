"""How far a mean over questions may be off where questions come in groups that are not independent."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from moe_tune.stats.ratios import Floats
from moe_tune.stats.standard_error import cluster_se


def cluster_reach(influence_Q: Floats, cluster_Q: NDArray[np.intp] | None = None) -> tuple[float, int]:
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
    influence_C = np.asarray(np.bincount(group_Q, weights=influence_Q), dtype=np.float64)
    clusters = len(influence_C)
    if clusters < 2:
        return math.nan, clusters
    return float(student.ppf(0.975, clusters - 1)) * cluster_se(influence_C), clusters
