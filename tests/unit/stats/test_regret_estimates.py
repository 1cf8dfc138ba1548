"""Regret is claimed where sampled routes really answer better, and not where targets are random."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from moe_tune.stats.route_regret import SampledAnswers, confidence_quintiles, route_regret


def answers(seed, questions=120, routes=16, choices=4, sharp=1.0):
    """Return routes whose answers are those of the own route but for noise; the own route is surer, targets random."""
    random = np.random.default_rng(seed)
    shared_QA = 2 * random.normal(size=(questions, choices))
    routes_QNA = shared_QA[:, None] + 0.5 * random.normal(size=(questions, routes, choices))
    own_QA = sharp * (shared_QA + 0.5 * random.normal(size=(questions, choices)))
    gold_Q = random.integers(0, choices, questions)
    score_QN = random.normal(size=(questions, routes))
    return SampledAnswers(_log(routes_QNA), _log(own_QA), score_QN, gold_Q, np.arange(questions))


def _log(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("sharp", [1.0, 3.0])
def test_random_targets_make_no_regret(sharp):
    found = [route_regret(answers(seed, sharp=sharp), 99, seed)["all"] for seed in range(200)]
    assert sum(one.verdict == "regret" for one in found) <= 14


def test_a_router_that_avoids_the_right_answer_has_regret():
    made = answers(0)
    own_QA = made.own_QA.copy()
    own_QA[np.arange(len(own_QA)), made.gold_Q] -= 1.0
    found = route_regret(replace(made, own_QA=_log(own_QA)), 99)
    assert found["all"].verdict == "regret"
    assert found["all"].gap > 0


def test_a_router_that_takes_the_best_route_has_none():
    made = answers(0)
    best = made.log_probs_QNA[np.arange(120), :, made.gold_Q].argmax(1)
    found = route_regret(replace(made, own_QA=made.log_probs_QNA[np.arange(120), best]), 99)
    assert found["all"].verdict == "no regret"
    assert found["all"].best == 0
    assert found["all"].better == pytest.approx(0.5 / 16)  # the tie with itself


def test_rank_correlation_is_spearmans_and_fifths_hold_every_question_once():
    made = answers(4, questions=23)
    found = route_regret(made, 9)
    utility_QN = made.log_probs_QNA[np.arange(23), :, made.gold_Q]
    theirs = [spearmanr(*pair).statistic for pair in zip(utility_QN, made.score_QN, strict=True)]
    assert found["all"].rank == pytest.approx(np.mean(theirs), abs=1e-12)
    assert sum(one.questions for name, one in found.items() if name != "all") == 23
    sizes = np.bincount(confidence_quintiles(made.own_QA))
    assert sizes.max() - sizes.min() <= 1


def test_routes_equal_to_the_own_one_are_neither_better_nor_worse():
    made = answers(1)
    same = replace(made, log_probs_QNA=np.repeat(made.own_QA[:, None], 16, axis=1))
    found = route_regret(same, 9)["all"]
    assert (found.better, found.gap, found.best, found.best_null) == (0.5, 0, 0, 0)
    assert np.isnan(found.rank)
