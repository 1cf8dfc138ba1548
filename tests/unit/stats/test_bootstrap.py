"""The paired cluster bootstrap: near the t interval where that is exact, blind to order, and one with its clusters."""

import numpy as np
import pytest

from moe_tune.stats.bootstrap import paired_bootstrap
from moe_tune.stats.standard_error import cluster_reach


def drawn(n, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=(1, n))


@pytest.mark.parametrize("size", [1, 4])
def test_it_is_near_the_cluster_robust_interval(size):
    diff_SQ = np.repeat(drawn(1500 // size), size, axis=1)
    cluster_Q = np.repeat(np.arange(1500 // size), size)
    low, high = paired_bootstrap(diff_SQ, cluster_Q)
    mean = diff_SQ.mean()
    reach, _ = cluster_reach((diff_SQ[0] - mean) / diff_SQ.size, cluster_Q)
    assert (high - low) / 2 == pytest.approx(reach, rel=0.05)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.1 * reach)


def test_one_seed_one_interval_and_questions_repeated_in_their_cluster_change_nothing():
    diff_SQ = drawn(300)
    alone = paired_bootstrap(diff_SQ, np.arange(300), draws=2000)
    assert alone == paired_bootstrap(diff_SQ, np.arange(300), draws=2000)
    repeated = paired_bootstrap(np.repeat(diff_SQ, 3, axis=1), np.repeat(np.arange(300), 3), draws=2000)
    assert repeated == pytest.approx(alone, abs=1e-12)


def test_swapping_the_arms_mirrors_it():
    low, high = paired_bootstrap(drawn(400), np.arange(400))
    assert paired_bootstrap(-drawn(400), np.arange(400)) == pytest.approx((-high, -low), abs=1e-12)


def test_where_nothing_spreads_it_is_the_mean():
    assert paired_bootstrap(np.zeros((2, 50)), np.arange(50)) == (0.0, 0.0)
