"""Committees: the few experts of a layer that rank high for most subjects, held against what chance alone gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_tune.stats.permutation_null import SLACK
from moe_tune.stats.ratios import Floats, ratio

PRESENT = 0.8
"""Share of the subjects in which a member is among the K experts of most weight."""
FEWEST_SUBJECTS = 2
REGROUPED = 200
"""Draws of the null in which subjects do not differ: each reads every question."""


@dataclass(frozen=True, slots=True, eq=False)
class Committee:
    """The committee of one layer, and what is known of it.

    Args:
        members: Its experts, the most present first; there may be none.
        coverage: Share of a subject's weight that they carry, mean over subjects.
        chance_high: The 95th percentile of the coverage where no expert is shared between subjects.
        p: Share of the draws without shared experts whose committee carries as much.
        overlap: Mean Jaccard index of the top-K sets of two subjects.
        alike_low: 2.5th percentile of the overlap where subjects do not differ.
        alike_high: 97.5th percentile of the same.
    """

    members: tuple[int, ...]
    coverage: float
    chance_high: float
    p: float
    overlap: float
    alike_low: float
    alike_high: float


def committee(
    weights_QE: Floats, subject_Q: NDArray[np.intp], top_k: int, draws: int = 1000, seed: int = 0
) -> Committee:
    """Return the committee of a layer.

    Per subject d, ``u_de`` is the mean weight of expert e at the position, 0 where it was not chosen, and ``r_de`` its
    rank by it, ties towards the lower index. Presence is the share of subjects in which an expert is among the K of
    most weight. Members are those of the first Pareto front over high presence, low mean rank and low spread of ranks
    (ddof 0) that have a presence of at least 0.8, the K most present at most.

    Formula: ``coverage = mean_d sum_{e in members} u_de / sum_e u_de``; ``overlap = mean_{d < d'} |T_d & T_d'| / |T_d |
    T_d'|`` of the top-K sets T. The null of no shared experts permutes the labels of the experts within each subject
    and seeks a committee anew; the null of like subjects permutes the questions over the subjects.

    Args:
        weights_QE: Weight that each question's token gives each expert, at least 0.
        subject_Q: Subject of each question, 0 and up.
        top_k: Experts per token, K.
        draws: Draws of the null of no shared experts, at least 1; that of like subjects takes at most 200.
        seed: Their seed.

    Shape:
        - (Q, E), (Q,), Q at least 1.

    Reference:
        After arXiv 2601.03425; the estimators and the nulls are this project's.

    Example:
        >>> weights = np.tile([0.6, 0.4, 0.0, 0.0], (6, 1))
        >>> committee(weights, np.array([0, 0, 1, 1, 2, 2]), top_k=2).members
        (0,)
    """
    by_subject = _Regrouped(weights_QE, subject_Q)
    u_SE = by_subject.means(subject_Q)
    if len(u_SE) < FEWEST_SUBJECTS:
        return Committee((), np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)
    random = np.random.default_rng(seed)
    members_E = _members(u_SE[None], top_k)[0]
    coverage = float(_coverage(u_SE[None], members_E[None])[0])
    overlap = _overlap(u_SE, top_k)
    drawn_D = np.empty(draws)
    for draw in range(draws):
        shuffled_SE = random.permuted(u_SE, axis=1)[None]
        drawn_D[draw] = _coverage(shuffled_SE, _members(shuffled_SE, top_k))[0]
    alike_D = [_overlap(by_subject.means(random.permutation(subject_Q)), top_k) for _ in range(min(draws, REGROUPED))]
    presence_E, rank_E, _ = (one[0] for one in _standing(u_SE[None], top_k))
    order_E = np.lexsort((rank_E, -presence_E))
    return Committee(
        members=tuple(int(expert) for expert in order_E if members_E[expert]),
        coverage=coverage,
        chance_high=float(np.quantile(drawn_D, 0.95)),
        p=float((1 + np.sum(drawn_D >= coverage - SLACK)) / (1 + draws)),
        overlap=overlap,
        alike_low=float(np.quantile(alike_D, 0.025)),
        alike_high=float(np.quantile(alike_D, 0.975)),
    )


class _Regrouped:
    """Mean weights by subject, of the questions dealt out to the subjects in any way."""

    def __init__(self, weights_QE: Floats, subject_Q: NDArray[np.intp]) -> None:
        self.weights_QE = weights_QE
        self.present_S = np.unique(subject_Q)

    def means(self, subject_Q: NDArray[np.intp]) -> Floats:
        belongs_SQ = (subject_Q == self.present_S[:, None]).astype(np.float64)
        return np.asarray(belongs_SQ @ self.weights_QE / belongs_SQ.sum(1, keepdims=True), dtype=np.float64)


def _ranks(u_DSE: Floats) -> NDArray[np.intp]:
    """Return each expert's rank within its subject, from 1, ties towards the lower index."""
    order_DSE = np.argsort(-u_DSE, axis=-1, kind="stable")
    return np.asarray(np.argsort(order_DSE, axis=-1, kind="stable") + 1)


def _top(u_DSE: Floats, top_k: int) -> NDArray[np.bool_]:
    """Return whether an expert is among the K of most weight, which an expert without weight never is."""
    return np.asarray((_ranks(u_DSE) <= top_k) & (u_DSE > 0))


def _standing(u_DSE: Floats, top_k: int) -> tuple[Floats, Floats, Floats]:
    """Return presence, mean rank and spread of ranks of each expert, (D, E)."""
    rank_DSE = _ranks(u_DSE)
    return _top(u_DSE, top_k).mean(1), rank_DSE.mean(1), rank_DSE.std(1)


def _members(u_DSE: Floats, top_k: int) -> NDArray[np.bool_]:
    presence_DE, rank_DE, spread_DE = _standing(u_DSE, top_k)
    worth_DE3 = np.stack([presence_DE, -rank_DE, -spread_DE], axis=-1)
    no_worse_DEE = np.all(worth_DE3[:, :, None] >= worth_DE3[:, None], axis=-1)  # [e, f]: e against f
    better_DEE = no_worse_DEE & np.any(worth_DE3[:, :, None] > worth_DE3[:, None], axis=-1)
    fit_DE = ~better_DEE.any(1) & (presence_DE >= PRESENT)
    # The K most present of them, the smaller mean rank first, then the lower index.
    order_DE = np.lexsort((rank_DE, -presence_DE, ~fit_DE), axis=-1)
    members_DE = np.zeros_like(fit_DE)
    np.put_along_axis(members_DE, order_DE[:, :top_k], True, axis=-1)
    return np.asarray(members_DE & fit_DE)


def _coverage(u_DSE: Floats, members_DE: NDArray[np.bool_]) -> Floats:
    return np.asarray(np.nan_to_num(ratio((u_DSE * members_DE[:, None]).sum(-1), u_DSE.sum(-1))).mean(-1))


def _overlap(u_SE: Floats, top_k: int) -> float:
    top_SE = _top(u_SE, top_k).astype(np.float64)
    shared_SS, size_S = top_SE @ top_SE.T, top_SE.sum(1)
    index_SS = ratio(shared_SS, size_S[:, None] + size_S[None] - shared_SS)
    pairs = index_SS[np.triu_indices(len(top_SE), k=1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else np.nan
