"""Bounds, load, specialisation and the depth trend: closed forms, tables of the literature, slow references."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from made_up_quiz import made_up_quiz as quiz
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, linregress, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from moe_tune.stats.depth_trend import depth_trend
from moe_tune.stats.load import effective_experts, load_gini, load_max_over_mean, load_variation
from moe_tune.stats.never_activated import never_bound
from moe_tune.stats.specialisation import leading_subject, subject_divergence, subject_information, subject_lift


@pytest.mark.parametrize(
    ("questions", "one", "every"),
    [(285, 1.05, 3.42), (1_531, 0.20, 0.65), (14_042, 0.021, 0.071), (99_842, 0.0030, 0.0099)],
)
def test_the_bounds_are_those_of_the_table(questions, one, every):
    decimals = 2 if questions < 10_000 else 3 if questions < 50_000 else 4
    assert round(100 * never_bound(questions), decimals) == one
    assert round(100 * never_bound(questions, 1024), decimals) == every


def test_a_bound_of_a_thousandth_needs_as_many_questions_as_stated():
    assert never_bound(2_995) <= 0.001 < never_bound(2_994)
    assert never_bound(9_923, 1024) <= 0.001 < never_bound(9_922, 1024)
    assert never_bound(0) == 1


def test_load_of_even_and_of_one_sided_layers():
    even, one, none = [5] * 8, [40] + [0] * 7, [0] * 8
    count_LE, tokens_L = np.array([even, one, none]), np.array([20, 40, 0])
    assert effective_experts(count_LE, tokens_L, 9)[:2] == pytest.approx([8, 1])
    assert load_max_over_mean(count_LE)[:2].tolist() == [1, 8]
    assert load_variation(count_LE)[:2] == pytest.approx([0, math.sqrt(7)])
    assert load_gini(count_LE)[:2] == pytest.approx([0, 7 / 8])
    for statistic in (load_max_over_mean, load_variation, load_gini):
        assert math.isnan(statistic(count_LE)[2])
    assert math.isnan(effective_experts(count_LE, tokens_L, 0)[2])


def test_the_effective_number_may_exceed_the_experts_seen_but_never_all():
    few = np.zeros((1, 64), int)
    few[0, :8] = 50
    assert 8 < effective_experts(few, np.array([50]), 50)[0] < 9
    for experts in range(2, 200):
        assert effective_experts(np.full((1, experts), 3), np.array([3]), 3)[0] <= experts


def test_gini_is_the_mean_absolute_difference():
    load_LE = np.random.default_rng(0).integers(0, 50, (3, 16))
    slow = [np.abs(row[:, None] - row).sum() / (2 * 16 * row.sum()) for row in load_LE.astype(float)]
    assert load_gini(load_LE) == pytest.approx(slow)


def test_the_correction_takes_away_the_bias_of_the_usage_entropy():
    """Even routing of 50 tokens, one per question, to 4 of 32 experts: H is ln 32."""
    draw = np.random.default_rng(0)
    score = draw.random((1000, 50, 32))
    count = (np.argsort(np.argsort(score)) < 4).sum(1)
    plain = entropy(count, axis=1).mean() - math.log(32)
    corrected = entropy(count, axis=1).mean() + (32 - 4) / (2 * 4 * 50) - math.log(32)
    assert plain < -0.06
    assert abs(corrected) < 0.1 * abs(plain)
    one_row, tokens = count[:1], np.array([50])
    raised = np.log(effective_experts(one_row, tokens, 50)) - np.log(effective_experts(one_row, tokens, 49))
    assert raised[0] == pytest.approx(min(0.07, math.log(32) - entropy(count[0])))


def test_mutual_information_is_the_divergence_from_independence_less_the_correction():
    hit_QLE, _, subject_Q = quiz(questions=3000, top_k=1)
    by_LES = np.einsum("qle,qs->les", hit_QLE.astype(int), np.eye(5, dtype=int)[subject_Q])
    came = subject_information(by_LES, np.bincount(subject_Q))
    for layer in range(2):
        joint_ES = by_LES[layer] / 3000
        plain = entropy(joint_ES.ravel(), np.outer(joint_ES.sum(1), joint_ES.sum(0)).ravel())
        fired = np.sum(joint_ES.sum(1) > 0)
        assert came[layer] == pytest.approx(plain - (fired - 1) * 4 / (2 * 3000))


def test_mutual_information_is_zero_on_average_without_specialisation():
    draw = np.random.default_rng(0)
    values, plain = [], []
    for _ in range(100):
        hit_QE = np.argsort(np.argsort(draw.random((600, 16)))) < 4
        subject_Q = draw.integers(0, 6, 600)
        by_LES = (hit_QE.T.astype(int) @ np.eye(6, dtype=int)[subject_Q])[None]
        values.append(subject_information(by_LES, np.bincount(subject_Q, minlength=6))[0])
        plain.append(values[-1] + 5 * 12 / (2 * 4 * 600))
    assert abs(np.mean(values)) < 0.05 * np.mean(plain)


def test_mutual_information_of_nothing_is_undefined():
    assert np.isnan(subject_information(np.zeros((2, 4, 3), int), np.zeros(3, int))).all()


def test_divergence_is_that_of_scipy_and_reaches_its_ends():
    by_LES = np.random.default_rng(0).integers(0, 20, (2, 6, 4))
    by_LES[0, :, 2] = 0
    came = subject_divergence(by_LES)
    for layer in range(2):
        for subject in range(4):
            wanted = (
                jensenshannon(by_LES[layer, :, subject], by_LES[layer].sum(1)) ** 2
                if by_LES[layer, :, subject].any()
                else math.nan
            )
            assert came[layer, subject] == pytest.approx(wanted, nan_ok=True)
    assert subject_divergence(np.array([[[3, 9, 6], [1, 3, 2]]]))[0] == pytest.approx(0, abs=1e-12)


def test_the_leading_subject_needs_questions_as_well_as_lift():
    asked_S = np.array([1000, 100, 2, 0])
    by_LES = np.array([[[100, 60, 2, 0], [0, 0, 0, 0]]])
    lift_LES = subject_lift(by_LES, asked_S)
    assert lift_LES[0, 0, :3] == pytest.approx(np.array([0.1, 0.6, 1.0]) / (162 / 1102))
    assert math.isnan(lift_LES[0, 0, 3])
    assert leading_subject(by_LES, lift_LES).tolist() == [[1, -1]]


def test_the_slope_is_that_of_one_regression_per_question():
    draw = np.random.default_rng(0)
    entropy_QL, layers = 1.9 + 0.1 * draw.random((50, 4)), (0, 3, 5, 9)
    entropy_QL[7, 2] = np.nan
    slopes = np.array([linregress(layers, row).slope for row in np.delete(entropy_QL, 7, axis=0)])
    came = depth_trend(entropy_QL, layers)
    reach = student.ppf(0.975, 48) * slopes.std(ddof=1) / 7
    assert (came.slope, came.low, came.high) == pytest.approx(
        (slopes.mean(), slopes.mean() - reach, slopes.mean() + reach)
    )
    assert (came.questions, came.clusters) == (49, 49)


def test_the_clustered_interval_is_that_of_statsmodels():
    draw = np.random.default_rng(0)
    cluster_Q = draw.integers(0, 12, 80)
    entropy_QL = draw.normal(size=(80, 3)) + draw.normal(size=(12, 3))[cluster_Q]
    came = depth_trend(entropy_QL, (0, 1, 2), cluster_Q)
    slopes = (entropy_QL[:, 2] - entropy_QL[:, 0]) / 2
    fit = sm.OLS(slopes, np.ones(80)).fit(
        cov_type="cluster", cov_kwds={"groups": cluster_Q, "use_correction": False}, use_t=True
    )
    reach = student.ppf(0.975, 11) * fit.bse[0] * math.sqrt(12 / 11)
    assert (came.slope, came.high - came.slope) == pytest.approx((fit.params[0], reach))
    twice = depth_trend(np.tile(entropy_QL, (2, 1)), (0, 1, 2), np.tile(cluster_Q, 2))
    assert (twice.low, twice.high) == pytest.approx((came.low, came.high)), "copies of a question add nothing"


def made_up_entropies(means, noise=0.1, questions=200):
    draw = np.random.default_rng(3)
    return np.array(means) + noise * draw.normal(size=(questions, len(means)))


def test_falls_are_what_holms_steps_over_paired_intervals_find():
    entropy_QL = made_up_entropies([1.0, 1.8, 2.0, 1.7, 1.99])
    came = depth_trend(entropy_QL, (2, 3, 5, 7, 8))
    tenth = 0.1 * np.ptp(entropy_QL.mean(0))
    assert came.range == pytest.approx(10 * tenth)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    by = {pair: entropy_QL[:, pair[0]] - entropy_QL[:, pair[1]] for pair in pairs}
    p = [ttest_1samp(by[pair], tenth, alternative="greater").pvalue for pair in pairs]
    wanted = {pair for pair, kept in zip(pairs, multipletests(p, 0.025, "holm")[0], strict=True) if kept}
    layers = (2, 3, 5, 7, 8)
    assert (
        {(fall.earlier, fall.later) for fall in came.falls} == {(layers[i], layers[j]) for i, j in wanted} == {(5, 7)}
    )
    assert came.falls[0].by == pytest.approx(by[2, 3].mean())
    assert tenth < came.falls[0].least < came.falls[0].by


@pytest.mark.parametrize(
    ("means", "noise", "falls"),
    [
        ([1.0, 1.2, 1.4, 1.6], 0.1, 0),
        ([1.0, 1.5, 2.0, 1.95], 0.01, 0),  # by less than a tenth of the range
        ([1.0, 1.5, 2.0, 1.7], 9.0, 0),  # not surely
        ([1.0, 1.5, 2.0, 1.7], 0.01, 1),
        ([1.0, 1.5, 2.0, 1.7], 0.0, 1),
        ([1.0, 1.0, 1.0, 1.0], 0.0, 0),
    ],
)
def test_a_fall_is_sure_and_beyond_a_tenth_of_the_range(means, noise, falls):
    assert len(depth_trend(made_up_entropies(means, noise), range(4)).falls) == falls


def test_copies_of_a_question_make_no_fall_surer():
    entropy_QL, cluster_Q = made_up_entropies([1.0, 2.0, 1.7], 0.1, 20), np.arange(20)
    once = depth_trend(entropy_QL, range(3), cluster_Q)
    twice = depth_trend(np.tile(entropy_QL, (2, 1)), range(3), np.tile(cluster_Q, 2))
    assert len(once.falls) == len(twice.falls) == 1
    assert twice.falls[0].least == pytest.approx(once.falls[0].least)


def test_a_trend_needs_two_layers_and_two_questions():
    assert math.isnan(depth_trend(np.ones((5, 1)), (0,)).slope)
    assert math.isnan(depth_trend(np.full((5, 2), np.nan), (0, 1)).slope)
    one = depth_trend(np.array([[1.0, 2.0]]), (0, 1))
    assert one.slope == pytest.approx(1)
    assert math.isnan(one.low)
