"""Partial pooling by subject against its limits and an independent reference."""

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from moe_tune.compare.subjects import subject_differences


def differences(rng, means, n=400):
    up = [rng.random(n) < 0.1 + max(mean, 0) for mean in means]
    down = [rng.random(n) < 0.1 + max(-mean, 0) for mean in means]
    diff_Q = np.concatenate([u.astype(float) - d for u, d in zip(up, down, strict=True)])
    return diff_Q[None], [f"s{j:02d}" for j in range(len(means)) for _ in range(n)]


def test_heterogeneity_agrees_with_statsmodels_and_spread_is_found():
    found = subject_differences(*differences(np.random.default_rng(0), np.linspace(-0.15, 0.15, 20)))
    reference = combine_effects(found.table["diff"].to_numpy(), found.table["se"].to_numpy() ** 2, method_re="iterated")
    assert found.q == pytest.approx(reference.q)
    assert found.i_squared == pytest.approx(reference.i2)
    # Restricted likelihood and Paule-Mandel estimate the same variance.
    assert found.tau**2 == pytest.approx(reference.tau2, rel=0.1)
    assert found.mean == pytest.approx(reference.mean_effect_re, abs=1e-3)


def test_pooled_values_lie_between_the_raw_one_and_the_mean():
    table_of = subject_differences(*differences(np.random.default_rng(1), [0.0, 0.05, 0.1, -0.05, 0.2]))
    for row in table_of.table.itertuples():
        assert min(row.diff, table_of.mean) - 1e-12 <= row.pooled <= max(row.diff, table_of.mean) + 1e-12
        assert row.low < row.pooled < row.high


def test_equal_subjects_are_pooled_almost_wholly():
    found = subject_differences(*differences(np.random.default_rng(2), [0.05] * 12))
    assert np.ptp(found.table["pooled"]) < 0.5 * np.ptp(found.table["diff"])


def test_nothing_to_pool():
    assert subject_differences(np.zeros((1, 30)), ["a", "b", "c"] * 10) is None
    assert subject_differences(np.ones((1, 30)), ["a", "b"] * 15) is None
