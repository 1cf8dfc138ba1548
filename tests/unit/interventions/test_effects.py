"""Effects: divergences are never negative, a set of one has no interaction, intervals are those of one mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moe_tune.interventions.answers import judged
from moe_tune.interventions.effects import Differences, interaction_frame
from moe_tune.interventions.plan import Intervention, single
from moe_tune.stats.clustered_means import clustered_means
from moe_tune.stats.rank_correlation import rank_correlation, spearman
from moe_tune.stats.standard_error import cluster_reach

LOGITS = arrays(np.float32, (3, 2, 4), elements=st.floats(-30, 30, width=32))


@given(LOGITS, arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32)), st.integers(2, 4))
def test_the_divergence_is_never_negative_and_nothing_where_nothing_changed(after, before, choices):
    beyond = torch.arange(4) >= choices
    after_BNA, before_BA = (
        torch.from_numpy(one).masked_fill(beyond, -torch.inf).log_softmax(-1) for one in (after, before)
    )
    gold_B = torch.zeros(3, dtype=torch.long)
    found = judged(before_BA, after_BNA, gold_B)
    assert (found["kl"] >= 0).all()
    assert found["kl"].isfinite().all()
    same = judged(before_BA, before_BA[:, None], gold_B)
    assert not same["kl"].any()
    assert torch.equal(same["log_prob"][:, 0], before_BA[:, 0])


def test_a_set_of_one_has_no_interaction():
    one, other = single("mask", 1, 3), single("mask", 2, 0)
    change = {one: np.random.default_rng(0).normal(size=50), other: np.full(50, 0.5)}
    both = Intervention("mask", ((1, (3,)), (2, (0,))))
    change[both] = change[one] + 0.75
    found = Differences(change, {}, {})
    frame = interaction_frame([one, both], found, np.arange(50))
    assert frame.loc[0, "interaction"] == frame.loc[0, "interaction_low"] == frame.loc[0, "interaction_high"] == 0
    assert frame.loc[1, "interaction"] == pytest.approx(0.25)
    assert frame.loc[1, "sum_of_singles"] == pytest.approx(change[one].mean() + 0.5)


def test_intervals_of_many_rows_are_those_of_each_alone():
    draw = np.random.default_rng(0)
    value_IQ, cluster_Q = draw.normal(0.1, 1, size=(5, 200)), draw.integers(0, 80, 200)
    found = clustered_means(value_IQ, cluster_Q)
    for row, value_Q in enumerate(value_IQ):
        reach, clusters = cluster_reach((value_Q - value_Q.mean()) / 200, cluster_Q)
        assert found.clusters[row] == clusters
        assert found.value[row] == pytest.approx(value_Q.mean())
        assert found.high[row] - found.value[row] == pytest.approx(reach)
        assert (found.p[row] < 0.05) == (not found.low[row] <= 0 <= found.high[row])


def test_a_mean_over_some_questions_is_that_of_them_alone():
    draw = np.random.default_rng(1)
    value_IQ, cluster_Q = draw.normal(size=(3, 150)), np.arange(150) // 2
    counts_IQ = draw.random((3, 150)) < 0.6
    counts_IQ[2] = False
    found = clustered_means(value_IQ, cluster_Q, counts_IQ)
    for row in range(2):
        kept_Q = counts_IQ[row]
        alone = clustered_means(value_IQ[row : row + 1, kept_Q], cluster_Q[kept_Q])
        for name in ("value", "low", "high", "p", "questions", "clusters"):
            assert getattr(found, name)[row] == pytest.approx(getattr(alone, name)[0]), name
    assert found.questions[2] == 0
    assert np.isnan(found.value[2])


def test_every_question_twice_changes_no_interval():
    value_IQ = np.random.default_rng(2).normal(size=(2, 60))
    once, twice = (clustered_means(np.tile(value_IQ, times), np.tile(np.arange(60), times)) for times in (1, 2))
    np.testing.assert_allclose(once.low, twice.low)
    np.testing.assert_allclose(once.p, twice.p)


def test_rank_correlations_agree_with_scipy_and_find_what_is_planted():
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    level_E = np.linspace(0, 1, 12)
    one_QE = level_E + draw.normal(size=(300, 12)) * 0.5
    other_QE = level_E + draw.normal(size=(300, 12)) * 0.5

    def mean_of(values_QE):
        return lambda times_Q: times_Q @ values_QE / times_Q.sum()

    found = rank_correlation(mean_of(one_QE), mean_of(other_QE), np.arange(300), draws=200)
    assert found.value == pytest.approx(spearmanr(one_QE.mean(0), other_QE.mean(0)).statistic)
    assert found.experts == 12
    assert 0.8 < found.low <= found.value <= found.high <= 1
    noise = rank_correlation(mean_of(draw.normal(size=(300, 12))), mean_of(other_QE), np.arange(300), draws=200)
    assert noise.low < 0 < noise.high
    assert np.isnan(spearman(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0])))
