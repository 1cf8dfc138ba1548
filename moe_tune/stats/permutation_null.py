"""What chance alone gives: correctness shuffled among the questions of a subject, routing left as it is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from moe_tune.stats.ratios import FEWEST, Counts, Floats, ratio

SLACK = 1e-9
"""Equal statistics stay equal despite rounding, so that ties count against a finding."""


@dataclass(frozen=True, slots=True)
class PermutationNull:
    """Experts and layers held against the permutation null; NaN where the data cannot tell anything.

    Args:
        z_LE: Correct answers of each expert, standardised by their mean and deviation under the null.
        p_LE: Two-sided p value of each expert alone.
        p_adjusted_LE: The same adjusted for all experts of all layers.
        spread_L: Range of raw accuracy over a layer's experts with at least 30 questions.
        spread_null_DL: The same in each draw.
        spread_p_L: p value of each layer's spread.
        left_out: Questions left out because they repeat another of their subject.
    """

    z_LE: Floats
    p_LE: Floats
    p_adjusted_LE: Floats
    spread_L: Floats
    spread_null_DL: Floats
    spread_p_L: Floats
    left_out: int

    def spread_p_holm_L(self) -> Floats:
        """Return the p values of the layers' spreads after Holm's correction over layers, (L,)."""
        known = ~np.isnan(self.spread_p_L)
        corrected_L = np.full(self.spread_p_L.shape, np.nan)
        if known.any():
            corrected_L[known] = multipletests(self.spread_p_L[known], method="holm")[1]
        return corrected_L


def null_moments(questions_ES: Counts, all_correct_S: Counts, all_questions_S: Counts) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of an expert's correct answers when correctness is shuffled within subjects.

    Formula, hypergeometric in each subject: ``mean = sum_s n_es K_s / N_s``,
    ``variance = sum_s n_es K_s (N_s - K_s) (N_s - n_es) / (N_s^2 (N_s - 1))``

    Shape:
        - (..., S) by subject; (...) returned.

    Reference:
        Mantel and Haenszel 1959, https://doi.org/10.1093/jnci/22.4.719

    Example:
        >>> mean, deviation = null_moments(np.array([[2]]), np.array([2]), np.array([4]))
        >>> float(mean[0]), round(float(deviation[0]), 4)
        (1.0, 0.5774)
    """
    n_ES, K_S, N_S = (np.asarray(table, dtype=np.float64) for table in (questions_ES, all_correct_S, all_questions_S))
    mean_ES = n_ES * np.nan_to_num(ratio(K_S, N_S))
    variance_ES = mean_ES * np.nan_to_num(ratio((N_S - K_S) * (N_S - n_ES), N_S * (N_S - 1)))
    return mean_ES.sum(-1), np.sqrt(variance_ES.sum(-1))


def permutation_null(
    hit_QLE: NDArray[Any],
    correct_Q: NDArray[np.bool_],
    subject_Q: NDArray[np.intp],
    draws: int = 1000,
    seed: int = 0,
    cluster_Q: NDArray[np.intp] | None = None,
) -> PermutationNull:
    """Return how far experts and layers lie from what shuffling correctness within subjects gives.

    Shuffling within subjects keeps what subjects explain: an expert of hard subjects alone does not stand out. Of the
    questions of one text in a subject only the first is read, here and in what is compared with the null: copies are
    routed and answered alike, and shuffling them one by one would take what they share for a finding.

    Formula, with z standardised by ``null_moments`` and ``*`` for a draw:
    ``p = (1 + #{|z*| >= |z|}) / (1 + draws)``, adjusted: ``(1 + #{max |z*| >= |z|}) / (1 + draws)``, the maximum over
    all experts of all layers; spreads alike, one-sided.

    Args:
        hit_QLE: Whether a token of each question was routed to each expert.
        correct_Q: Whether each question was answered correctly.
        subject_Q: Subject of each question, 0 and up.
        draws: Shuffles, 1 and up; p is at least 1 / (1 + draws).
        seed: Seed of the shuffles.
        cluster_Q: Number of the group of questions of one text, 0 and up; ``None`` takes every question as its own.

    Shape:
        - (Q, L, E), (Q,), (Q,), (Q,); Q at least 1. Working memory: about 4 Q draws bytes.

    Reference:
        Westfall and Young 1993, "Resampling-Based Multiple Testing" (single-step max-T); add-one rule: Phipson and
        Smyth 2010, https://doi.org/10.2202/1544-6115.1585
    """
    order = np.argsort(subject_Q, kind="stable")
    if cluster_Q is not None:
        first = np.unique(np.stack([subject_Q, cluster_Q]), axis=1, return_index=True)[1]
        order = order[np.isin(order, first)]
    left_out = len(correct_Q) - len(order)
    hit_QLE, subject_Q, right_Q = hit_QLE[order], subject_Q[order], correct_Q[order].astype(np.float32)
    size_S, solved_S = np.bincount(subject_Q), np.bincount(subject_Q, weights=right_Q)
    shuffled_DQ = _shuffles(right_Q, size_S, draws, seed)
    layers, experts = hit_QLE.shape[1:]
    z_LE, p_LE = np.full((layers, experts), np.nan), np.full((layers, experts), np.nan)
    spread_L, spread_null_DL, largest_D = np.full(layers, np.nan), np.full((draws, layers), np.nan), np.zeros(draws)
    starts_S = np.flatnonzero(np.diff(subject_Q, prepend=-1))
    present = size_S > 0
    for layer in range(layers):
        # Whole numbers below 2^24 are exact in float32, whatever order they are added in.
        hit_QE = np.ascontiguousarray(hit_QLE[:, layer], dtype=np.float32)
        questions_ES = np.add.reduceat(hit_QE, starts_S, axis=0).T
        questions_E, solved_E = questions_ES.sum(-1), (right_Q @ hit_QE).astype(np.float64)
        drawn_DE = (shuffled_DQ @ hit_QE).astype(np.float64)
        mean_E, deviation_E = null_moments(questions_ES, solved_S[present], size_S[present])
        z_E = ratio(solved_E - mean_E, deviation_E)
        varies = deviation_E > 0
        away_DE = np.abs((drawn_DE[:, varies] - mean_E[varies]) / deviation_E[varies])
        z_LE[layer] = z_E
        p_LE[layer, varies] = (1 + np.sum(away_DE >= np.abs(z_E[varies]) - SLACK, axis=0)) / (1 + draws)
        largest_D = np.maximum(largest_D, away_DE.max(axis=1, initial=0))
        often = questions_E >= FEWEST
        if often.sum() >= 2:
            spread_L[layer] = np.ptp(solved_E[often] / questions_E[often])
            spread_null_DL[:, layer] = np.ptp(drawn_DE[:, often] / questions_E[often], axis=1)
    beaten_LE = np.sum(largest_D >= np.abs(z_LE)[..., None] - SLACK, axis=-1)
    spread_p_L = (1 + np.sum(spread_null_DL >= spread_L - SLACK, axis=0)) / (1 + draws)
    spread_p_L = np.where(np.isnan(spread_L), np.nan, spread_p_L)
    p_adjusted_LE = np.where(np.isnan(z_LE), np.nan, (1 + beaten_LE) / (1 + draws))
    return PermutationNull(z_LE, p_LE, p_adjusted_LE, spread_L, spread_null_DL, spread_p_L, left_out)


def _shuffles(correct_Q: NDArray[np.float32], size_S: Counts, draws: int, seed: int) -> NDArray[np.float32]:
    """Shuffle correctness within subjects; the questions of a subject are neighbours."""
    random = np.random.default_rng(seed)
    shuffled_DQ = np.empty((draws, len(correct_Q)), dtype=np.float32)
    for part in np.split(np.arange(len(correct_Q)), np.cumsum(size_S)[:-1]):
        if len(part):
            block = np.tile(correct_Q[part], (draws, 1))
            shuffled_DQ[:, part[0] : part[-1] + 1] = random.permuted(block, axis=1)
    return shuffled_DQ
