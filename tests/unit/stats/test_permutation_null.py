"""The permutation null: right moments, few false alarms under subject confounding, and planted experts found."""

import numpy as np
import pytest
from made_up_quiz import made_up_quiz as quiz
from scipy.stats import binom, hypergeom

from moe_tune.stats.accuracy_estimates import shrunk_accuracy
from moe_tune.stats.permutation_null import null_moments, permutation_null


def test_the_moments_are_those_of_independent_hypergeometrics():
    hit_QLE, correct_Q, subject_Q = quiz(questions=120)
    one_hot_QS = np.eye(6, dtype=int)[subject_Q]  # the sixth subject is empty
    n_ES, solved_S, asked_S = hit_QLE[:, 0].T.astype(int) @ one_hot_QS, correct_Q @ one_hot_QS, one_hot_QS.sum(0)
    mean_E, deviation_E = null_moments(n_ES, solved_S, asked_S)
    with np.errstate(divide="ignore"):  # scipy's kurtosis, which is not asked for
        for expert, n_S in enumerate(n_ES):
            laws = [hypergeom(asked_S[s], solved_S[s], n_S[s]) for s in range(5)]
            assert mean_E[expert] == pytest.approx(sum(law.mean() for law in laws))
            assert deviation_E[expert] ** 2 == pytest.approx(sum(law.var() for law in laws))


def test_two_hundred_nulls_confounded_by_subject_rarely_flag_an_expert():
    """Raw accuracies differ wildly here, because experts follow subjects and subjects differ in difficulty."""
    alarms, spreads, naive = 0, 0, 0
    for seed in range(200):
        hit_QLE, correct_Q, subject_Q = quiz(seed=seed)
        null = permutation_null(hit_QLE, correct_Q, subject_Q, draws=199, seed=seed)
        alarms += bool(np.nanmin(null.p_adjusted_LE) < 0.05)
        spreads += bool(2 * np.nanmin(null.spread_p_L) < 0.05)  # the first step of Holm over two layers
        n_E, k_E = hit_QLE[:, 0].sum(0, dtype=int), correct_Q @ hit_QLE[:, 0].astype(int)
        one_sided_E = np.minimum(binom.cdf(k_E, n_E, correct_Q.mean()), binom.sf(k_E - 1, n_E, correct_Q.mean()))
        naive += bool(2 * one_sided_E.min() < 0.05 / 8)
    assert alarms <= 0.07 * 200
    assert spreads <= 0.07 * 200
    assert naive >= 0.8 * 200, "otherwise the data would not be confounded, and the test would show nothing"


def test_p_values_of_single_experts_are_even_under_the_null():
    p = []
    for seed in range(40):
        p += permutation_null(*quiz(seed=seed), draws=99, seed=seed).p_LE.ravel().tolist()
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p) <= level)
        assert share == pytest.approx(level, abs=0.05)


def test_an_expert_used_only_on_wrong_answers_is_flagged_first_and_lies_below_the_rest():
    hit_QLE, correct_Q, subject_Q = quiz(questions=1200)
    hit_QLE[:, 1, 3] = ~correct_Q & (np.random.default_rng(0).random(1200) < 0.3)
    null = permutation_null(hit_QLE, correct_Q, subject_Q)
    assert null.p_adjusted_LE[1, 3] < 0.05
    assert np.unravel_index(np.nanargmax(np.abs(null.z_LE)), null.z_LE.shape) == (1, 3)
    assert null.p_adjusted_LE[1, 3] == np.nanmin(null.p_adjusted_LE)
    assert np.nansum(null.p_adjusted_LE < 0.05) == 1
    holm_L = null.spread_p_holm_L()
    assert holm_L[1] < 0.05 <= holm_L[0]
    hit_QE = hit_QLE[:, 1].astype(int)
    shrunk = shrunk_accuracy(correct_Q @ hit_QE, hit_QE.sum(0))
    assert shrunk.high[3] < np.delete(shrunk.low, 3).min()


def test_the_order_of_questions_does_not_matter():
    hit_QLE, correct_Q, subject_Q = quiz()
    order = np.random.default_rng(0).permutation(len(correct_Q))
    one = permutation_null(hit_QLE, correct_Q, subject_Q, draws=1000)
    two = permutation_null(hit_QLE[order], correct_Q[order], subject_Q[order], draws=1000)
    np.testing.assert_array_equal(one.z_LE, two.z_LE)
    np.testing.assert_array_equal(one.spread_L, two.spread_L)
    for name in ("p_LE", "p_adjusted_LE", "spread_p_L"):
        # The difference of two Monte-Carlo estimates of 1,000 draws has a deviation of at most 0.022.
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=0.09, equal_nan=True)


def test_copies_of_questions_add_nothing():
    """Shuffled one by one they would: a third of nulls with every question twice has an expert flagged then."""
    hit_QLE, correct_Q, subject_Q = quiz()
    once = permutation_null(hit_QLE, correct_Q, subject_Q, draws=99)
    twice = permutation_null(
        *(np.tile(one, (2, *[1] * (one.ndim - 1))) for one in (hit_QLE, correct_Q, subject_Q)),
        draws=99,
        cluster_Q=np.tile(np.arange(400), 2),
    )
    for name in ("z_LE", "p_LE", "p_adjusted_LE", "spread_L", "spread_null_DL", "spread_p_L"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(once, name))
    assert (once.left_out, twice.left_out) == (0, 400)


def test_a_text_asked_in_two_subjects_counts_in_both():
    hit_QLE, correct_Q, _ = quiz()
    subject_Q = np.arange(400) // 200
    null = permutation_null(hit_QLE, correct_Q, subject_Q, draws=20, cluster_Q=np.arange(400) % 200)
    assert null.left_out == 0


def test_equal_spreads_count_against_a_finding():
    """Two experts that share the questions: the spread takes two values only, and the larger is often drawn again."""
    subject_Q, fires_Q = np.zeros(62, dtype=int), np.arange(62) < 31
    correct_Q = (np.arange(62) == 0) | (np.arange(62) == 40)
    null = permutation_null(np.stack([fires_Q, ~fires_Q], axis=-1)[:, None], correct_Q, subject_Q, draws=200)
    assert null.spread_L[0] == 0
    assert null.spread_p_L[0] == 1, "no draw lies below the smallest spread there is"
    again = permutation_null(np.stack([fires_Q, ~fires_Q], axis=-1)[:, None], np.arange(62) < 2, subject_Q, draws=200)
    # Both right answers on one side: 30 in 61 of all draws.
    assert again.spread_p_L[0] == pytest.approx(30 / 61, abs=0.12)


def test_a_shuffle_keeps_what_subjects_explain():
    """Every subject's number of correct answers stays, so an expert that is a subject can never stand out."""
    _, correct_Q, subject_Q = quiz()
    hit_QLE = np.eye(5)[subject_Q][:, None, :]
    null = permutation_null(hit_QLE, correct_Q, subject_Q, draws=50)
    assert np.isnan(null.z_LE).all()
    assert np.isnan(null.p_adjusted_LE).all()
    assert null.spread_L[0] > 0.3
    assert null.spread_p_L[0] == 1


def test_the_maximum_runs_over_all_layers_and_adjusting_never_helps():
    null = permutation_null(*quiz(layers=3), draws=300)
    assert (null.p_adjusted_LE >= null.p_LE).all()
    order = np.argsort(np.abs(null.z_LE).ravel())
    assert (np.diff(null.p_adjusted_LE.ravel()[order]) <= 0).all(), "the larger |z|, the smaller p"


def test_experts_that_always_or_never_fire_and_layers_of_few_questions_are_undefined():
    hit_QLE, correct_Q, subject_Q = quiz(questions=40)
    hit_QLE[:, 0, 0], hit_QLE[:, 0, 1], hit_QLE[:, 1] = 1, 0, 0
    null = permutation_null(hit_QLE, correct_Q, subject_Q, draws=20)
    assert np.isnan(null.p_LE[0, :2]).all()
    assert np.isfinite(null.p_LE[0, 2:]).any()
    assert np.isnan(null.p_LE[1]).all()
    assert np.isnan(null.spread_p_L).tolist() == np.isnan(null.spread_p_holm_L()).tolist() == [True, True]
