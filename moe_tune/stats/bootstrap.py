"""The paired cluster bootstrap: whole clusters are drawn again, pairs and seeds stay together."""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

DRAWS = 10_000
BATCH = 256
"""Draws held in memory at a time."""


def paired_bootstrap(
    diff_SQ: NDArray[np.float64],
    cluster_Q: NDArray[np.intp],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of a mean paired difference.

    Formula, over clusters g drawn with replacement: ``D* = sum_g sum_{i in g} mean_s d_is / sum_g n_g``

    Args:
        diff_SQ: Difference of each question and seed: -1, 0 or 1.
        cluster_Q: Number of the cluster a question belongs to, 0 and up.
        draws: Bootstrap draws.
        seed: Of the draws: the same seed, the same interval.
        level: Coverage, between 0 and 1.

    Shape:
        - (S, Q), (Q,); two numbers, both the mean where nothing spreads.

    Reference:
        Efron, 1987, "Better bootstrap confidence intervals", Journal of the American Statistical Association 82(397).

    Example:
        >>> low, high = paired_bootstrap(np.array([[1.0, 0, 0, 0, 1, -1, 0, 0] * 20]), np.arange(160))
        >>> round(low, 2), round(high, 2)
        (0.03, 0.22)
    """
    sum_C = np.bincount(cluster_Q, weights=diff_SQ.mean(axis=0)).astype(np.float64)
    return ratio_bootstrap(sum_C, np.bincount(cluster_Q).astype(np.float64), draws, seed, level)


def ratio_bootstrap(
    sum_C: NDArray[np.float64],
    size_C: NDArray[np.float64],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of ``sum_g s_g / sum_g n_g`` over clusters g.

    Args:
        sum_C: Sum of each cluster.
        size_C: Its size, above 0: questions, or tokens.
        draws: Bootstrap draws.
        seed: Of the draws: the same seed, the same interval.
        level: Coverage, between 0 and 1.

    Shape:
        - (C,), (C,), C at least 2; two numbers, both the ratio where nothing spreads.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (sum_C, size_C),
            _ratio,
            paired=True,
            vectorized=True,
            n_resamples=draws,
            batch=BATCH,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if np.isnan(found.low):
        mean = float(sum_C.sum() / size_C.sum())
        return mean, mean
    return float(found.low), float(found.high)


def _ratio(sum_C: NDArray[np.float64], size_C: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(sum_C.sum(axis=axis) / size_C.sum(axis=axis), dtype=np.float64)
