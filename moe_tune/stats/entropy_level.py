"""How near the gate's entropy is to its maximum, layer by layer, and how surely."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_tune.stats.ratios import Counts, Floats
from moe_tune.stats.standard_error import cluster_reach


@dataclass(frozen=True, slots=True)
class EntropyLevel:
    """The mean top-k entropy of every layer, NaN where it is not defined.

    Args:
        mean_L: Nats, mean over tokens.
        low_L: Lower ends of the 95 % intervals.
        high_L: Upper ends.
        most_L: The mean of the most it can be, ln K where every token uses K experts.
        questions: Questions with a token that counts, in the layer that has the fewest.
        clusters: Independent groups of them there; as many as questions when none are known.
    """

    mean_L: Floats
    low_L: Floats
    high_L: Floats
    most_L: Floats
    questions: int
    clusters: int


def entropy_level(
    entropy_QL: Floats, tokens_QL: Counts, most_L: Floats, cluster_Q: NDArray[np.intp] | None = None
) -> EntropyLevel:
    """Return the mean over tokens of the top-k entropy, with intervals that know questions and their groups as units.

    Formula, a ratio estimate: ``m = sum n_i h_i / sum n_i``, influence ``u_i = n_i (h_i - m) / sum n_i`` of question i,
    summed by cluster; interval ``m -+ t_{C-1} sqrt(C / (C - 1) sum_g u_g^2)``. The maximum is taken as known.

    Args:
        entropy_QL: Mean entropy of each question's tokens, in nats; not read where there is no token.
        tokens_QL: Tokens it is over, 0 and up.
        most_L: Mean of the most the entropy can be, in nats.
        cluster_Q: Number of the group a question belongs to, 0 and up: questions of one text are one group; ``None``
            takes every question as independent.

    Shape:
        - (Q, L), (Q, L), (L,), (Q,); the interval is NaN for a single question or group.

    Reference:
        Cochran 1977, "Sampling Techniques", chapter 6 (ratio estimates); Liang and Zeger 1986,
        https://doi.org/10.1093/biomet/73.1.13 (clusters)

    Example:
        >>> level = entropy_level(np.array([[1.0], [2.0]]), np.array([[3], [1]]), np.array([2.08]))
        >>> float(level.mean_L[0]), level.questions
        (1.25, 2)
    """
    depth = entropy_QL.shape[1]
    mean_L, reach_L = np.full(depth, np.nan), np.full(depth, np.nan)
    fewest: list[tuple[int, int]] = []
    for layer in range(depth):
        known = tokens_QL[:, layer] > 0
        share_Q = tokens_QL[known, layer] / max(int(tokens_QL[known, layer].sum()), 1)
        clusters = 0
        if known.any():
            mean_L[layer] = share_Q @ entropy_QL[known, layer]
            influence_Q = share_Q * (entropy_QL[known, layer] - mean_L[layer])
            reach_L[layer], clusters = cluster_reach(influence_Q, None if cluster_Q is None else cluster_Q[known])
        fewest.append((int(known.sum()), clusters))
    return EntropyLevel(mean_L, mean_L - reach_L, mean_L + reach_L, most_L, *min(fewest))
