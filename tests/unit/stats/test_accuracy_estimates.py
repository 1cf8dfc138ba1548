"""Per-expert accuracy against scipy, statsmodels and slow loops written from the formulas."""

import math

import numpy as np
import pytest
from made_up_quiz import made_up_quiz as quiz
from statsmodels.stats.contingency_tables import StratifiedTable

from moe_tune.stats.accuracy_estimates import raw_accuracy, risk_difference, shrunk_accuracy, subject_gap
from moe_tune.stats.mantel_haenszel import mantel_haenszel


@pytest.fixture
def counts():
    """Counts by expert and subject of one layer, and of all questions by subject."""
    hit_QLE, correct_Q, subject_Q = quiz(questions=900, layers=1)
    hit_QE, one_hot_QS = hit_QLE[:, 0].astype(int), np.eye(5, dtype=int)[subject_Q]
    solved_QS = one_hot_QS * correct_Q[:, None]
    return hit_QE.T @ solved_QS, hit_QE.T @ one_hot_QS, solved_QS.sum(0), one_hot_QS.sum(0)


def test_an_expert_without_questions_has_no_accuracy():
    for estimate in (raw_accuracy, shrunk_accuracy):
        came = estimate(np.array([0, 5]), np.array([0, 9]))
        assert [math.isnan(end[0]) for end in came] == [True] * 3
        assert not any(math.isnan(end[1]) for end in came)
        assert all(np.isnan(end).all() for end in estimate(np.zeros(3, int), np.zeros(3, int)))


def test_equal_rates_give_the_common_rate():
    came = shrunk_accuracy(np.array([6, 60, 600]), np.array([10, 100, 1000]))
    assert came.value == pytest.approx(0.6)
    assert np.all(came.low <= came.value)
    assert np.all(came.value <= came.high)


def test_differences_smaller_than_chance_give_the_common_rate():
    """More alike than independent questions would be: the variance estimate is negative."""
    assert shrunk_accuracy(np.array([50, 51, 49]), np.array([100, 100, 100])).value == pytest.approx(0.5, abs=1e-12)


def test_many_questions_leave_the_raw_accuracy():
    n = np.array([10**8, 10**8, 10**8])
    k = np.array([2, 5, 8]) * 10**7
    assert shrunk_accuracy(k, n).value == pytest.approx(k / n, abs=1e-6)


@pytest.mark.parametrize("rate", [0, 1])
def test_all_wrong_and_all_right_stay_as_they_are(rate):
    n = np.array([4, 9])
    assert [end.tolist() for end in shrunk_accuracy(rate * n, n)] == [[rate, rate]] * 3


def test_shrunk_values_lie_between_the_raw_and_the_mean_and_few_questions_move_further():
    k, n = np.array([1, 100, 500, 60]), np.array([5, 500, 1000, 100])
    p, came = k.sum() / n.sum(), shrunk_accuracy(k, n)
    low, high = np.minimum(k / n, p), np.maximum(k / n, p)
    assert ((low <= came.value) & (came.value <= high)).all()
    moved = (came.value - k / n) / (p - k / n)
    assert moved[0] > moved[1] > moved[2]
    assert ((came.low < came.value) & (came.value < came.high)).all()


def test_the_odds_ratio_is_that_of_statsmodels(counts):
    k_ES, n_ES, solved_S, asked_S = counts
    came = mantel_haenszel(k_ES, n_ES, solved_S, asked_S)
    for expert in range(len(k_ES)):
        tables = []
        for k, n, solved, asked in zip(k_ES[expert], n_ES[expert], solved_S, asked_S, strict=True):
            tables.append(np.array([[k, n - k], [solved - k, asked - n - solved + k]]))
        slow = StratifiedTable(tables)
        assert came.value[expert] == pytest.approx(slow.oddsratio_pooled, rel=1e-10)
        assert (came.low[expert], came.high[expert]) == pytest.approx(slow.oddsratio_pooled_confint(), rel=1e-10)


def test_empty_subjects_change_no_odds_ratio_and_no_infinity_comes_back(counts):
    empty = [np.concatenate([np.zeros((*table.shape[:-1], 1), int), table], axis=-1) for table in counts]
    for came, wanted in zip(mantel_haenszel(*empty), mantel_haenszel(*counts), strict=True):
        np.testing.assert_array_equal(came, wanted)
    # Fires on nothing; on right answers only; on wrong answers only; on everything.
    odd_E = np.array([[0], [3], [0], [6]]), np.array([[0], [3], [4], [10]]), np.array([6]), np.array([10])
    value, low, high = mantel_haenszel(*odd_E)
    assert value.tolist() == pytest.approx([math.nan, math.nan, 0, math.nan], nan_ok=True)
    assert np.isnan([low, high]).all()


def test_swapping_right_and_wrong_inverts_the_odds_ratio_and_the_risk_difference(counts):
    k_ES, n_ES, solved_S, asked_S = counts
    there = mantel_haenszel(k_ES, n_ES, solved_S, asked_S)
    back = mantel_haenszel(n_ES - k_ES, n_ES, asked_S - solved_S, asked_S)
    np.testing.assert_allclose(there.value, 1 / back.value, rtol=1e-12)
    np.testing.assert_allclose(there.low, 1 / back.high, rtol=1e-12)
    k, n, solved, asked = k_ES.sum(1), n_ES.sum(1), int(solved_S.sum()), int(asked_S.sum())
    np.testing.assert_allclose(
        risk_difference(k, n, solved, asked), -risk_difference(n - k, n, asked - solved, asked), atol=1e-15
    )


def test_the_gap_is_the_mean_of_correctness_minus_the_subjects_rate(counts):
    hit_QLE, correct_Q, subject_Q = quiz(questions=900, layers=1)
    rate_S = [correct_Q[subject_Q == subject].mean() for subject in range(5)]
    for expert, came in enumerate(subject_gap(*counts)):
        own = [float(correct_Q[q]) - rate_S[subject_Q[q]] for q in np.flatnonzero(hit_QLE[:, 0, expert])]
        assert came == pytest.approx(np.mean(own), abs=1e-12)
