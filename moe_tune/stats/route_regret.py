"""Route regret: whether routes sampled from the router's own logits answer better than the route it takes."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moe_tune.stats.permutation_null import SLACK
from moe_tune.stats.rank_correlation import spearman
from moe_tune.stats.ratios import Floats
from moe_tune.stats.standard_error import cluster_reach

QUINTILES = 5
ALL = "all"
"""The name of all questions among the parts; the fifths are numbered."""
Verdict = Literal["regret", "no regret", "inconclusive"]


@dataclass(frozen=True, slots=True, eq=False)
class SampledAnswers:
    """What each question's sampled routes came to, beside the router's own.

    Args:
        log_probs_QNA: Log-probabilities of the choices by route, -inf where a question has fewer.
        own_QA: The same by the router's own route.
        score_QN: Score of each route: the sum of the log-probabilities of its experts.
        gold_Q: Index of the correct choice.
        cluster_Q: Number of the group of questions of one text, 0 and up.
    """

    log_probs_QNA: Floats
    own_QA: Floats
    score_QN: Floats
    gold_Q: NDArray[np.intp]
    cluster_Q: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class RouteRegret:
    """Route regret over some questions; utilities are log-probabilities of the correct choice, in nats.

    Args:
        questions: How many.
        better: Share of sampled routes better than the router's own, ties half, mean over questions.
        low: Lower end of its 95 % interval, by clusters of equal texts; NaN with fewer than two.
        high: Upper end.
        better_null: The same where the correct choice is drawn at random, mean.
        p: Share of such draws in which as many routes are better.
        gap: Median utility of the routes less that of the router's own, mean over questions.
        gap_low: Lower end of its 95 % interval.
        gap_high: Upper end.
        rank: Rank correlation of a route's utility and score, mean over the questions whose routes differ.
        rank_low: Lower end of its 95 % interval.
        rank_high: Upper end.
        best: Utility of the best route less that of the router's own, mean; optimistic, it was picked by the answer.
        best_null: The same with utilities dealt out anew among the routes of questions of like confidence.
    """

    questions: int
    better: float
    low: float
    high: float
    better_null: float
    p: float
    gap: float
    gap_low: float
    gap_high: float
    rank: float
    rank_low: float
    rank_high: float
    best: float
    best_null: float

    @property
    def verdict(self) -> Verdict:
        """``regret`` if the interval of ``better`` lies above one half and random targets would not give as much."""
        if self.low > 0.5 and self.p < 0.05:
            return "regret"
        return "no regret" if self.high <= 0.5 else "inconclusive"


def confidence_quintiles(own_QA: Floats) -> NDArray[np.intp]:
    """Return the fifth of the questions that each belongs to by its largest probability, 0 the least confident.

    Example:
        >>> confidence_quintiles(np.log([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])).tolist()
        [0, 4, 1, 3, 2]
    """
    order_Q = np.argsort(np.argsort(own_QA.max(1), kind="stable"), kind="stable")
    return np.asarray(order_Q * QUINTILES // len(own_QA), dtype=np.intp)


def route_regret(answers: SampledAnswers, draws: int = 1000, seed: int = 0) -> dict[str, RouteRegret]:
    """Return route regret over all questions (``all``), and over each fifth of them by the router's confidence.

    Formula, with ``u_qn`` the log-probability of question q's correct choice on route n and ``u_q`` on its own route:
    ``better = mean_q mean_n ([u_qn > u_q] + [u_qn = u_q] / 2)``, one half where the own route is like any other.
    A router that is sure of wrong answers loses against less sure routes whatever they are, so the claim is also held
    against random targets: the correct choices permuted among the questions of a fifth.

    Args:
        answers: What the routes came to.
        draws: Draws of both nulls, at least 1.
        seed: Their seed.

    Returns:
        By ``all``, ``1`` (the least confident fifth) to ``5``; fifths without a question are left out.

    Reference:
        After arXiv 2605.07260, of which only the abstract and summaries could be read; estimators and nulls are this
        project's.
    """
    fifth_Q = confidence_quintiles(answers.own_QA)
    better_Q = _better(answers, answers.gold_Q)
    utility_QN, own_Q = _utilities(answers, answers.gold_Q)
    with np.errstate(invalid="ignore"):
        gain_QN = np.nan_to_num(utility_QN - own_Q[:, None], neginf=0.0, posinf=0.0)
    gap_Q, best_Q = np.median(gain_QN, axis=1), gain_QN.max(axis=1)
    rank_Q = np.array([spearman(*pair) for pair in zip(utility_QN, answers.score_QN, strict=True)])
    random = np.random.default_rng(seed)
    drawn_DQ, dealt_DQ = np.empty((draws, len(own_Q))), np.empty((draws, len(own_Q)))
    for draw in range(draws):
        gold_Q = answers.gold_Q.copy()
        for fifth in np.unique(fifth_Q):
            inside = np.flatnonzero(fifth_Q == fifth)
            gold_Q[inside] = gold_Q[random.permutation(inside)]
            dealt_DQ[draw, inside] = random.permutation(gain_QN[inside].reshape(-1)).reshape(len(inside), -1).max(1)
        drawn_DQ[draw] = _better(answers, gold_Q)
    parts = {ALL: np.ones(len(own_Q), dtype=bool)}
    parts |= {str(fifth + 1): fifth_Q == fifth for fifth in range(QUINTILES) if np.any(fifth_Q == fifth)}
    found = {}
    for name, inside_Q in parts.items():
        group_Q = answers.cluster_Q[inside_Q]
        better, low, high = _mean(better_Q[inside_Q], group_Q)
        known_Q = inside_Q & ~np.isnan(rank_Q)
        drawn_D = drawn_DQ[:, inside_Q].mean(1)
        found[name] = RouteRegret(
            int(inside_Q.sum()), better, low, high,
            float(drawn_D.mean()), float((1 + np.sum(drawn_D >= better - SLACK)) / (1 + draws)),
            *_mean(gap_Q[inside_Q], group_Q), *_mean(rank_Q[known_Q], answers.cluster_Q[known_Q]),
            float(best_Q[inside_Q].mean()), float(dealt_DQ[:, inside_Q].mean()),
        )  # fmt: skip
    return found


def _utilities(answers: SampledAnswers, gold_Q: NDArray[np.intp]) -> tuple[Floats, Floats]:
    utility_QN = np.take_along_axis(answers.log_probs_QNA, gold_Q[:, None, None], axis=2)[..., 0]
    return utility_QN, np.take_along_axis(answers.own_QA, gold_Q[:, None], axis=1)[:, 0]


def _better(answers: SampledAnswers, gold_Q: NDArray[np.intp]) -> Floats:
    utility_QN, own_Q = _utilities(answers, gold_Q)
    above_QN, equal_QN = utility_QN > own_Q[:, None], utility_QN == own_Q[:, None]
    return np.asarray(np.mean(above_QN + equal_QN / 2, axis=1))


def _mean(value_Q: Floats, cluster_Q: NDArray[np.intp]) -> tuple[float, float, float]:
    """Return a mean with its 95 % interval over clusters."""
    if not len(value_Q):
        return math.nan, math.nan, math.nan
    mean = float(value_Q.mean())
    reach, _ = cluster_reach((value_Q - mean) / len(value_Q), cluster_Q)
    return mean, mean - reach, mean + reach
