"""How far the accuracies of a layer's experts are drawn towards their common mean, and who is better after that."""

import numpy as np

from moe_tune.stats.ratios import Counts, Floats

LARGEST_WEIGHT = 1e6
"""Questions the layer's mean is worth at most: beyond that the experts do not differ measurably."""
ALIKE = 1e-8
"""A standard deviation between experts below which they count as alike."""


def moment_weight(correct_E: Counts, questions_E: Counts) -> float | None:
    """Return how many questions the layer's mean is worth beside an expert's own; ``None`` if chance explains all.

    Formula, with ``N = sum n``, ``p = sum k / N`` and ``r = k / n`` over the E experts that have questions::

        s^2 = [sum n (r - p)^2 - (E - 1) p (1 - p)] / [N - sum n^2 / N - (E - 1)]
        M = clip(p (1 - p) / s^2 - 1, 1, 10^6);   None if s^2 <= 0

    Reference:
        Kleinman 1973, "Proportions with extraneous variance", https://doi.org/10.1080/01621459.1973.10481332
    """
    known = questions_E > 0
    if not known.any():
        return None
    k, n = correct_E[known].astype(np.float64), questions_E[known].astype(np.float64)
    total, others = n.sum(), len(n) - 1
    p = k.sum() / total
    excess = np.sum(n * (k / n - p) ** 2) - others * p * (1 - p)
    scale = total - np.sum(n**2) / total - others
    if not (excess > 0 and scale > 0):
        return None
    return float(np.clip(p * (1 - p) * scale / excess - 1, 1, LARGEST_WEIGHT))


def surplus_scores(
    correct_E: Counts, questions_E: Counts, fewest: int, weight: float, expected_E: Floats | None = None
) -> Floats:
    """Return by how many standard deviations each expert does better than expected; 0 where too little is known.

    Formula: ``u_i / sd(u)`` with ``u_i = (k_i - e_i) / (n_i + M)``, which is the shrunk accuracy less the layer's where
    ``e_i = n_i p``; the sd (ddof 0) is over the experts with enough questions, and below 1e-8 all are alike.

    Args:
        correct_E: Correctly answered questions of each expert.
        questions_E: Questions of each expert, 0 and up.
        fewest: Experts with fewer questions score 0.
        weight: M, questions that the layer's mean is worth, at least 0.
        expected_E: Correct answers of each expert were it no better than others; ``None`` for the layer's share.

    Example:
        >>> surplus_scores(np.array([90, 10, 0]), np.array([100, 100, 0]), 30, 50.0).tolist()
        [1.0, -1.0, 0.0]
    """
    correct_E, questions_E = correct_E.astype(np.float64), questions_E.astype(np.float64)
    enough_E, total = questions_E >= fewest, questions_E.sum()
    if total == 0 or not enough_E.any():
        return np.zeros_like(questions_E)
    expected_E = questions_E * (correct_E.sum() / total) if expected_E is None else expected_E
    surplus_E = (correct_E - expected_E) / np.maximum(questions_E + weight, ALIKE)
    spread = surplus_E[enough_E].std()
    return np.where(enough_E, surplus_E / spread, 0.0) if spread >= ALIKE else np.zeros_like(surplus_E)
