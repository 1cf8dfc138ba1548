"""The paired statistics: agreement with independent references, invariances, calibration by simulation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ttest_1samp
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from moe_tune.base.errors import DataError
from moe_tune.settings.ending import paired_line
from moe_tune.stats.decision import decide
from moe_tune.stats.mcnemar import mcnemar
from moe_tune.stats.paired import compare_paired
from moe_tune.stats.standard_error import cluster_se, cluster_sums, critical_value, paired_se, total_se

counts = st.integers(0, 3000)


@given(counts, counts)
def test_exact_mcnemar_agrees_with_scipy_and_statsmodels(n01, n10):
    p, midp = mcnemar(n01, n10)
    assert p == pytest.approx(statsmodels_mcnemar([[5, n01], [n10, 7]], exact=True).pvalue, abs=1e-12)
    if n01 + n10:
        assert p == pytest.approx(binomtest(n01, n01 + n10).pvalue, abs=1e-12)
    assert 0 <= midp <= p <= 1
    assert midp == pytest.approx(1 if n01 == n10 else p - binom.pmf(n01, n01 + n10, 0.5), abs=1e-12)
    assert mcnemar(n10, n01) == (p, midp)


def draw(rng, n=300, seeds=1, p_up=0.15, p_down=0.1, per_cluster=2, subjects=4):
    baseline_Q = rng.random(n) < 0.5
    flips_SQ = rng.random((seeds, n)) < np.where(baseline_Q, p_down, p_up)
    clusters = [f"c{i // per_cluster}" for i in range(n)]
    return baseline_Q[None], baseline_Q ^ flips_SQ, clusters, [f"s{i % subjects}" for i in range(n)]


def run(data, seeds=None):
    baseline_SQ, arm_SQ, clusters, subjects = data
    return compare_paired(baseline_SQ, arm_SQ, clusters, subjects, seeds or list(range(1, len(arm_SQ) + 1)))


def numbers(result):
    return {
        field.name: value
        for field in dataclasses.fields(result)
        if isinstance(value := getattr(result, field.name), int | float | tuple)
        and field.name not in ("seeds", "seed_diffs", "median_seed")
    }


def same(one, other, skip=()):
    for key, value in numbers(one).items():
        if key not in skip:
            assert value == pytest.approx(numbers(other)[key], rel=1e-9, abs=1e-12), key


def test_one_seed_interval_is_scipys_paired_t_interval_for_independent_questions():
    baseline_SQ, arm_SQ, _, subjects = draw(np.random.default_rng(0))
    result = run((baseline_SQ, arm_SQ, [f"c{i}" for i in range(300)], subjects))
    reference = ttest_1samp(arm_SQ[0].astype(float) - baseline_SQ[0], 0).confidence_interval(0.95)
    assert result.ci95 == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert result.design_effect == pytest.approx(1)
    assert result.diff == pytest.approx(result.accuracy - result.baseline_accuracy)


def test_cluster_se_agrees_with_statsmodels_sandwich():
    rng = np.random.default_rng(1)
    diff_Q = rng.integers(-1, 2, 200).astype(float)
    cluster_Q = rng.permutation(np.arange(200) % 60)
    fit = OLS(diff_Q, np.ones((200, 1))).fit(
        cov_type="cluster", cov_kwds={"groups": cluster_Q, "use_correction": False}
    )
    expected = fit.bse[0] * np.sqrt(60 / 59)
    assert cluster_se(cluster_sums(diff_Q, cluster_Q)) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_order_of_questions_and_seeds_does_not_matter(number, seeds):
    rng = np.random.default_rng(number)
    baseline_SQ, arm_SQ, clusters, subjects = data = draw(rng, seeds=seeds)
    order, seed_order = rng.permutation(300), rng.permutation(seeds)
    shuffled = (
        baseline_SQ[:, order],
        arm_SQ[seed_order][:, order],
        [clusters[i] for i in order],
        [subjects[i] for i in order],
    )
    one, other = run(data), run(shuffled, [int(i) + 1 for i in seed_order])
    same(one, other)
    assert one.seeds == other.seeds
    assert one.seed_diffs == pytest.approx(other.seed_diffs)
    assert one.median_seed == other.median_seed


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_swapping_the_arms_flips_the_signs(number):
    baseline_SQ, arm_SQ, clusters, subjects = data = draw(np.random.default_rng(number))
    one, other = run(data), run((arm_SQ, baseline_SQ, clusters, subjects))
    assert other.diff == pytest.approx(-one.diff)
    assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
    assert other.macro_diff == pytest.approx(-one.macro_diff)
    assert (other.n01, other.n10, other.p, other.se) == (one.n10, one.n01, one.p, pytest.approx(one.se))
    mirror = {"improved": "worse", "worse": "improved"}
    assert other.decision == mirror.get(one.decision, one.decision)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_repeating_every_question_leaves_the_cluster_se_unchanged(number):
    baseline_SQ, arm_SQ, clusters, subjects = data = draw(np.random.default_rng(number), seeds=2)
    doubled = (np.tile(baseline_SQ, 2), np.tile(arm_SQ, 2), clusters * 2, subjects * 2)
    one, other = run(data), run(doubled)
    assert (other.diff, other.se, other.df) == pytest.approx((one.diff, one.se, one.df))
    assert other.ci95 == pytest.approx(one.ci95)
    assert other.macro_ci95 == pytest.approx(one.macro_ci95)
    assert other.se_paired < one.se_paired


def test_baseline_with_several_seeds_is_paired_seed_by_seed():
    baseline_SQ, arm_SQ, clusters, subjects = draw(np.random.default_rng(3), n=600, seeds=3)
    result = run((arm_SQ, arm_SQ.copy(), clusters, subjects))
    assert (result.diff, result.ci95, result.decision) == (0, (0, 0), "equivalent")
    before_SQ = np.repeat(baseline_SQ, 3, axis=0)
    same(run((before_SQ, arm_SQ, clusters, subjects)), run((baseline_SQ, arm_SQ, clusters, subjects)))


@pytest.mark.parametrize(("n", "word"), [(100, "inconclusive"), (298, "inconclusive"), (299, "equivalent")])
def test_no_changed_answer_shows_equivalence_only_where_one_point_would_have_been_seen(n, word):
    right_SQ = np.ones((1, n), dtype=bool)
    result = run((right_SQ, right_SQ.copy(), [str(i) for i in range(n)], ["s"] * n))
    assert (result.n01, result.n10, result.p, result.ci95) == (0, 0, 1.0, (0, 0))
    assert (result.decision, result.note) == (word, "this router only")
    assert (result.ci90[1] < 0.01) == (word == "equivalent") == (0.99**n < 0.05)
    # What is told is the share that a binomial test of no change in n rejects at 5 %, and it names itself.
    assert binomtest(0, n, result.told_ci95[1], alternative="less").pvalue == pytest.approx(0.05, abs=1e-9)
    assert result.told_ci95[0] == -result.told_ci95[1]
    assert "exact binomial bound" in result.method
    line = paired_line("test", result)
    assert f"+0.0 points [-{(told := f'{100 * result.told_ci95[1]:.1f}')}, +{told}], {word} (n {n}, no answer" in line


def test_changes_that_cancel_in_each_cluster_or_over_seeds_are_as_no_change():
    before_SQ, after_SQ = np.eye(2, 6, dtype=bool), np.eye(2, 6, dtype=bool)[::-1]
    assert run((before_SQ, after_SQ, list("abcdef"), ["s"] * 6)).decision == "inconclusive"
    assert run((before_SQ[:1], after_SQ[:1], list("aabcde"), ["s"] * 6)).decision == "inconclusive"


def test_macro_equals_micro_when_subjects_are_equally_large():
    result = run(draw(np.random.default_rng(5), subjects=4))
    assert result.macro_diff == pytest.approx(result.diff)
    assert run(draw(np.random.default_rng(5), subjects=1)).macro_diff is None


def test_questions_without_subject_stay_out_of_the_macro_average():
    baseline_SQ, arm_SQ, clusters, subjects = draw(np.random.default_rng(6))
    subjects = ["auxiliary" if i < 100 else subject for i, subject in enumerate(subjects)]
    kept = run((baseline_SQ[:, 100:], arm_SQ[:, 100:], clusters[100:], subjects[100:]))
    mixed = run((baseline_SQ, arm_SQ, clusters, subjects))
    assert (mixed.macro_diff, mixed.macro_ci95) == (pytest.approx(kept.macro_diff), pytest.approx(kept.macro_ci95))


def test_median_seed_is_the_lower_median_and_the_lowest_of_ties():
    baseline_SQ = np.zeros((1, 100), dtype=bool)
    gains = {7: 10, 3: 20, 5: 10, 9: 40}
    arm_SQ = np.array([np.arange(100) < gain for gain in gains.values()])
    result = compare_paired(baseline_SQ, arm_SQ, [str(i) for i in range(100)], ["s"] * 100, list(gains))
    assert (result.seeds, result.median_seed, result.n01) == ((3, 5, 7, 9), 5, 10)


def test_seeds_add_their_spread_and_few_degrees_of_freedom():
    se, df = total_se(0.003, 1001, np.array([0.01, 0.02, 0.03]))
    assert se == pytest.approx(np.hypot(0.003, 0.01 / np.sqrt(3)))
    assert 2 < df < 5
    assert total_se(0.003, 1001, np.array([0.01])) == (0.003, 1000)
    assert total_se(0.003, 1001, np.full(5, 0.01)) == (0.003, pytest.approx(1000))


def test_few_clusters_use_the_wild_bootstrap_and_one_is_refused():
    sums_C = np.array([0.02, -0.01, 0.005, -0.015, 0.0, 0.01, -0.01])
    assert critical_value(0.95, 6, sums_C) >= 2.446
    data = draw(np.random.default_rng(7), n=40, per_cluster=4)
    assert "wild cluster bootstrap" in run(data).method
    with pytest.raises(DataError, match="two different questions"):
        run(draw(np.random.default_rng(8), n=10, per_cluster=10))


def null_runs(draws, n, per_cluster, rng):
    """Yield arms that differ from the baseline in either direction alike; clusters move together."""
    for _ in range(draws):
        groups = n // per_cluster
        diff = rng.choice([-1, 0, 1], p=[0.15, 0.7, 0.15], size=groups)
        diff_Q = np.repeat(diff, per_cluster)
        diff_Q = np.where(rng.random(n) < 0.2, 0, diff_Q)
        baseline_Q = np.where(diff_Q == 0, rng.random(n) < 0.5, diff_Q < 0).astype(bool)
        yield baseline_Q, (baseline_Q + diff_Q).astype(bool), np.arange(n) // per_cluster


def test_rejection_rates_under_the_null_are_as_stated():
    """2,000 nulls: 99 % Monte-Carlo band 3.7-6.3 %; the exact test may only be conservative."""
    rejected = {"exact": 0, "midp": 0, "interval": 0}
    for baseline_Q, arm_Q, _ in null_runs(2000, 600, 1, np.random.default_rng(11)):
        diff_Q = arm_Q.astype(float) - baseline_Q
        p, midp = mcnemar(int((diff_Q > 0).sum()), int((diff_Q < 0).sum()))
        rejected["exact"] += p < 0.05
        rejected["midp"] += midp < 0.05
        sums_C = cluster_sums(diff_Q, np.arange(600))
        rejected["interval"] += abs(diff_Q.mean()) > critical_value(0.95, 599, sums_C) * paired_se(diff_Q)
    assert 0.037 <= rejected["midp"] / 2000 <= 0.063
    assert 0.037 <= rejected["interval"] / 2000 <= 0.063
    assert rejected["exact"] / 2000 <= 0.063


def test_clustered_null_is_held_by_the_cluster_se_and_broken_by_the_naive_one():
    robust = naive = 0
    for baseline_Q, arm_Q, cluster_Q in null_runs(2000, 600, 4, np.random.default_rng(12)):
        diff_Q = arm_Q.astype(float) - baseline_Q
        sums_C = cluster_sums(diff_Q, cluster_Q)
        robust += abs(diff_Q.mean()) > critical_value(0.95, 149, sums_C) * cluster_se(sums_C)
        naive += abs(diff_Q.mean()) > 1.96 * paired_se(diff_Q)
    assert 0.037 <= robust / 2000 <= 0.063
    assert naive / 2000 > 0.15


def test_wild_bootstrap_holds_the_level_with_twelve_clusters():
    rejected = 0
    for baseline_Q, arm_Q, cluster_Q in null_runs(500, 48, 4, np.random.default_rng(14)):
        diff_Q = arm_Q.astype(float) - baseline_Q
        sums_C = cluster_sums(diff_Q, cluster_Q)
        rejected += abs(diff_Q.mean()) > critical_value(0.95, 11, sums_C) * cluster_se(sums_C)
    assert rejected / 500 <= 0.075  # 99 % Monte-Carlo band of 500 draws


@pytest.mark.parametrize(
    ("ci95", "ci90", "midp", "seeds", "protocols", "expected"),
    [
        ((0.01, 0.05), (0.015, 0.045), 0.001, 5, [], ("improved", "")),
        ((-0.05, -0.01), (-0.045, -0.015), 0.001, 5, [], ("worse", "")),
        ((0.001, 0.008), (0.002, 0.007), 0.001, 5, [], ("improved", "below 1 point")),
        ((-0.004, 0.006), (-0.003, 0.005), 0.5, 5, [], ("equivalent", "")),
        ((-0.02, 0.03), (-0.01, 0.02), 0.4, 5, [], ("inconclusive", "")),
        ((0.01, 0.05), (0.015, 0.045), 0.06, 5, [], ("inconclusive", "")),
        ((0.01, 0.05), (0.015, 0.045), 0.001, 1, [], ("improved", "this router only")),
        ((0.01, 0.05), (0.015, 0.045), 0.001, 4, [], ("improved", "these routers only")),
        ((0.01, 0.05), (0.015, 0.045), 0.001, 5, [0.03, 0.01, -0.01], ("improved", "")),
        ((0.01, 0.05), (0.015, 0.045), 0.001, 5, [0.03, -0.01, -0.01],
         ("inconclusive", "sign holds under 1 of 3 protocols")),
        ((0.01, 0.05), (0.015, 0.045), 0.001, 5, [0.03, -0.01], ("improved", "")),
    ],
)  # fmt: skip
def test_decision_words(ci95, ci90, midp, seeds, protocols, expected):
    assert decide(ci95, ci90, midp, seeds, protocols) == expected


def test_a_decision_that_the_correction_takes_back_says_so():
    assert decide((0.01, 0.05), (0.015, 0.045), 0.02, 5, corrected=0.06) == ("inconclusive", "not after correction")
    assert decide((0.01, 0.05), (0.015, 0.045), 0.02, 5, corrected=0.04) == ("improved", "")


def test_below_five_seeds_the_interval_is_that_of_the_questions_and_from_five_on_wider():
    rng = np.random.default_rng(8)
    before_Q = rng.random(500) < 0.5
    # Seeds spread by several points.
    arm_SQ = np.stack([np.where(rng.random(500) < 0.1 + 0.05 * seed, True, before_Q) for seed in range(6)])
    few, several = (compare_paired(before_Q[None], arm_SQ[:k], contents(500), ["a"] * 500, range(k)) for k in (4, 6))
    for result, k in ((few, 4), (several, 6)):
        diff_Q = (arm_SQ[:k].astype(float) - before_Q).mean(axis=0)
        questions = cluster_se(cluster_sums(diff_Q, np.arange(500)))
        assert (result.se == pytest.approx(questions)) == (k < 5)
        assert result.se >= questions - 1e-15
        assert ("these routers only" in result.note) == (k < 5)
    assert "of these routers only" in few.method
    assert "spread over seeds" in several.method


def test_where_content_repeats_p_is_of_clusters_and_repeating_changes_nothing():
    rng = np.random.default_rng(9)
    before_Q, arm_Q = rng.random(200) < 0.5, rng.random(200) < 0.6

    def repeated_by(times):
        right_2Q = [np.repeat(one, times)[None] for one in (before_Q, arm_Q)]
        return compare_paired(*right_2Q, [f"c{i // times}" for i in range(200 * times)], ["a"] * 200 * times, [1])

    repeated, twice = repeated_by(4), repeated_by(2)
    assert repeated.p == repeated.midp == pytest.approx(twice.p, rel=1e-9)
    assert repeated.p > mcnemar(repeated.n01, repeated.n10)[0]
    # It is the p value of the interval: below 0.05 exactly where the interval excludes 0.
    assert (repeated.p < 0.05) == (repeated.ci95[0] > 0 or repeated.ci95[1] < 0)
    assert "cluster-robust" in repeated.method


def test_p_of_equivalence_is_that_of_the_90_percent_interval():
    rng = np.random.default_rng(10)
    for n in (400, 2000, 6000):
        before_Q = rng.random(n) < 0.5
        arm_Q = np.where(rng.random(n) < 0.03, ~before_Q, before_Q)
        result = compare_paired(before_Q[None], arm_Q[None], contents(n), ["a"] * n, [1])
        assert (result.p_equivalence < 0.05) == (max(map(abs, result.ci90)) < 0.01)


def contents(n):
    return [f"c{i}" for i in range(n)]
