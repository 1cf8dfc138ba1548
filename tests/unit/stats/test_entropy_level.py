"""The mean top-k entropy and its interval: against statsmodels, under copies, and how often it covers the truth."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import t as student

from moe_tune.stats.entropy_level import entropy_level

MOST_L = np.array([math.log(8)])


def made_up(questions, seed=0):
    """Return entropies of questions of very different lengths, (Q, 1), and their tokens."""
    draw = np.random.default_rng(seed)
    return draw.normal(1.9, 0.1, (questions, 1)), draw.geometric(1 / 100, (questions, 1))


def test_the_clustered_interval_is_that_of_a_weighted_regression():
    entropy_QL, tokens_QL = made_up(80)
    cluster_Q = np.random.default_rng(1).integers(0, 12, 80)
    came = entropy_level(entropy_QL, tokens_QL, MOST_L, cluster_Q)
    fit = sm.WLS(entropy_QL[:, 0], np.ones(80), weights=tokens_QL[:, 0]).fit(
        cov_type="cluster", cov_kwds={"groups": cluster_Q, "use_correction": False}, use_t=True
    )
    reach = student.ppf(0.975, 11) * fit.bse[0] * math.sqrt(12 / 11)
    assert (came.mean_L[0], came.high_L[0] - came.mean_L[0]) == pytest.approx((fit.params[0], reach))
    assert (came.questions, came.clusters) == (80, 12)


def test_equal_lengths_give_the_interval_of_a_mean():
    entropy_QL = made_up(30)[0]
    came = entropy_level(entropy_QL, np.full((30, 1), 7), MOST_L)
    reach = student.ppf(0.975, 29) * entropy_QL.std(ddof=1) / math.sqrt(30)
    assert (came.low_L[0], came.high_L[0]) == pytest.approx((entropy_QL.mean() - reach, entropy_QL.mean() + reach))


def test_copies_of_a_question_add_nothing_and_one_question_is_no_sample():
    entropy_QL, tokens_QL = made_up(20)
    once = entropy_level(entropy_QL, tokens_QL, MOST_L)
    twice = entropy_level(np.tile(entropy_QL, (2, 1)), np.tile(tokens_QL, (2, 1)), MOST_L, np.tile(np.arange(20), 2))
    assert (twice.low_L[0], twice.high_L[0]) == pytest.approx((once.low_L[0], once.high_L[0]))
    for cluster_Q, rows in ((None, [0]), (np.zeros(2, int), [0, 0])):
        one = entropy_level(entropy_QL[rows], tokens_QL[rows], MOST_L, cluster_Q)
        assert one.mean_L[0] == pytest.approx(entropy_QL[0, 0])
        assert np.isnan([one.low_L[0], one.high_L[0]]).all()
        assert one.clusters == 1


def test_questions_without_a_token_are_not_read():
    entropy_QL, tokens_QL = made_up(20)
    tokens_QL[3], entropy_QL[3] = 0, np.nan
    kept = np.arange(20) != 3
    came, wanted = (entropy_level(entropy_QL[rows], tokens_QL[rows], MOST_L) for rows in (slice(None), kept))
    assert (came.low_L[0], came.questions) == (wanted.low_L[0], 19)
    none = entropy_level(entropy_QL[:0], tokens_QL[:0], MOST_L)
    assert np.isnan([none.mean_L[0], none.low_L[0]]).all()
    assert none.questions == 0


def test_the_interval_covers_the_mean_of_all_tokens_of_questions_of_unequal_length():
    """An interval from the deviation over tokens and the number of questions covers 83 % here, not 95 %."""
    covered = 0
    for seed in range(1000):
        entropy_QL, tokens_QL = made_up(200, seed)
        came = entropy_level(entropy_QL, tokens_QL, MOST_L)
        covered += bool(came.low_L[0] <= 1.9 <= came.high_L[0])
    assert 0.93 <= covered / 1000 <= 0.97
