"""How evenly the tokens of a layer are spread over its experts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from moe_tune.stats.ratios import Counts, Floats, ratio


def effective_experts(count_LE: Counts, tokens_L: Counts, questions: int) -> Floats:
    """Return how many evenly used experts would have the same usage entropy.

    Formula: ``exp(H)``, ``H = -sum_e F_e ln F_e`` of the shares ``F_e = c_e / sum c``. With one token per question, H
    is raised by ``(E - K) / (2 K M)``, what M independent tokens of K experts each take from it on average where every
    expert may be chosen: it counts unseen experts, and the number may exceed that of experts seen, up to E. Tokens of
    one question are not independent, so with several H stays as counted, a little too low.

    Shape:
        - (L, E), (L,); (L,) returned, 1 to E, NaN where no token was seen.

    Reference:
        Hill 1973, https://doi.org/10.2307/1934352; correction: this project's, after Miller and Madow.

    Example:
        >>> effective_experts(np.array([[10, 10, 0, 0]]), np.array([20]), 5)
        array([2.])
    """
    experts = count_LE.shape[-1]
    chosen_L = count_LE.sum(-1)
    H_L = np.asarray(entropy(ratio(count_LE, chosen_L[:, None]), axis=-1))
    missing_L = ratio(experts - ratio(chosen_L, tokens_L), 2 * chosen_L)
    return np.minimum(np.exp(np.where(tokens_L == questions, H_L + missing_L, H_L)), experts)


def load_max_over_mean(count_LE: Counts) -> Floats:
    """Return the largest load of a layer over its mean load; 1 is even, E / K the most there can be.

    Shape:
        - (L, E); (L,) returned, NaN where no token was seen.

    Example:
        >>> load_max_over_mean(np.array([[3, 1, 0, 0]])).tolist()
        [3.0]
    """
    return ratio(count_LE.max(-1), count_LE.mean(-1))


def load_variation(count_LE: Counts) -> Floats:
    """Return the coefficient of variation of a layer's loads: standard deviation (over all E) over mean; 0 is even.

    Shape:
        - (L, E); (L,) returned, NaN where no token was seen.

    Example:
        >>> load_variation(np.array([[2, 0]])).tolist()
        [1.0]
    """
    return ratio(count_LE.std(-1), count_LE.mean(-1))


def load_gini(count_LE: Counts) -> Floats:
    """Return the Gini coefficient of a layer's loads; 0 is even, (E - 1) / E is one expert that takes all.

    Formula: ``sum_i sum_j |c_i - c_j| / (2 E sum c)``

    Shape:
        - (L, E); (L,) returned, NaN where no token was seen.

    Reference:
        Gini 1912; computed from the sorted loads.

    Example:
        >>> load_gini(np.array([[0, 0, 0, 8]])).tolist()
        [0.75]
    """
    experts = count_LE.shape[-1]
    place_E = 2 * np.arange(1, experts + 1) - experts - 1
    return ratio((np.sort(count_LE, axis=-1) * place_E).sum(-1), experts * count_LE.sum(-1))


def load_columns(count_LE: Counts) -> dict[str, NDArray[Any]]:
    """Return how the load of each layer is spread, by the names that tables of layers have for it.

    Shape:
        - (L, E); ``activated`` (experts chosen at least once), ``never_share``, ``load_max_over_mean`` and ``load_cv``
          (L,).

    Example:
        >>> load_columns(np.array([[3, 1, 0, 0]]))["never_share"].tolist()
        [0.5]
    """
    activated_L = (count_LE > 0).sum(-1)
    return {
        "activated": activated_L,
        "never_share": 1 - activated_L / count_LE.shape[-1],
        "load_max_over_mean": load_max_over_mean(count_LE),
        "load_cv": load_variation(count_LE),
    }
