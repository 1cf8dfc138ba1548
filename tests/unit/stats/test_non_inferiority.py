"""The margins are the known ones, have the power they say, and the test errs as often as it may."""

import numpy as np
import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.stats.non_inferiority import (
    NonInferiority,
    non_inferiority,
    pooled_margin,
    pooled_non_inferiority,
    smallest_margin,
)
from moe_tune.stats.paired import compare_paired

TABLE = [
    (10_042, 0.55, 0.78),
    (12_032, 0.51, 0.72),
    (5_700, 0.74, 1.04),
    (3_270, 0.97, 1.38),
    (1_172, 1.62, 2.30),
    (1_267, 1.56, 2.21),
    (1_838, 1.30, 1.83),
    (2_376, 1.14, 1.61),
]
SIX = [10_042, 3_270, 1_172, 1_267, 1_838, 2_376]
FOUR = [10_042, 3_270, 1_267, 1_838]


@pytest.mark.parametrize(("n", "at_five", "at_ten"), TABLE)
def test_smallest_margins_in_points(n, at_five, at_ten):
    assert [round(100 * smallest_margin(n, share), 2) for share in (0.05, 0.10)] == [at_five, at_ten]


@pytest.mark.parametrize(("sizes", "at_five", "at_ten"), [(SIX, 0.51, 0.72), (FOUR, 0.58, 0.82)])
def test_smallest_margins_of_the_pools(sizes, at_five, at_ten):
    assert [round(100 * pooled_margin(sizes, share), 2) for share in (0.05, 0.10)] == [at_five, at_ten]


def compared(n, discordance, diff, draws, seeds=1):
    """Compare an arm whose answers differ from the baseline's on a share of questions, by ``diff`` on average."""
    change_SQ = draws.choice(
        [-1, 0, 1], p=[(discordance - diff) / 2, 1 - discordance, (discordance + diff) / 2], size=(seeds, n)
    )
    before_Q = np.where(change_SQ[0] == 0, draws.random(n) < 0.5, change_SQ[0] < 0)
    after_SQ = (before_Q + change_SQ) > 0
    clusters, subjects = [str(place) for place in range(n)], ["s"] * n
    return compare_paired(before_Q[None].astype(bool), after_SQ, clusters, subjects, list(range(seeds)))


def test_power_at_no_difference_and_error_at_the_margin():
    draws, n, share = np.random.default_rng(5), 1_200, 0.1
    margin = smallest_margin(n, share)
    found = [non_inferiority(compared(n, share, 0.0, draws), margin).holds for _ in range(600)]
    wrong = [non_inferiority(compared(n, share, -margin, draws), margin).holds for _ in range(600)]
    assert 0.76 <= np.mean(found) <= 0.84
    assert np.mean(wrong) <= 0.073  # 99 % Monte-Carlo bound of 600 draws


def test_a_pool_shows_what_no_set_shows_alone():
    draws = np.random.default_rng(6)
    results = [compared(n, 0.05, 0.0, draws) for n in SIX]
    margin = pooled_margin(SIX, 0.05)
    pool = pooled_non_inferiority(results, 0.0075)
    assert pool.diff == pytest.approx(np.mean([one.diff for one in results]))
    se = np.sqrt(sum(one.se**2 for one in results)) / 6
    assert pool.low == pytest.approx(pool.diff - 1.645 * se, abs=1e-5)
    assert margin < 0.0075 < smallest_margin(3_270, 0.05)


def test_seeds_spread_over_the_sets_together_from_five_on():
    draws = np.random.default_rng(7)
    five = [compared(400, 0.2, 0.0, draws, seeds=5) for _ in range(3)]
    four = [compared(400, 0.2, 0.0, draws, seeds=4) for _ in range(3)]
    spread = np.std(np.mean([one.seed_diffs for one in five], axis=0), ddof=1) / np.sqrt(5)
    question = np.sqrt(sum(one.se_paired**2 for one in five)) / 3
    assert (five_pool := pooled_non_inferiority(five, 0.1)).low <= five_pool.diff - 1.645 * np.hypot(spread, question)
    question = np.sqrt(sum(one.se_paired**2 for one in four)) / 3
    assert (pool := pooled_non_inferiority(four, 0.1)).low == pytest.approx(pool.diff - 1.6465 * question, abs=1e-4)


def test_the_word_and_what_may_go_unseen_where_nothing_changed():
    assert NonInferiority(-0.001, -0.0049, 0.005).word == "non-inferior"
    assert NonInferiority(0.001, -0.005, 0.005).word == "not shown non-inferior"
    same = compared(200, 0.0, 0.0, np.random.default_rng(8))
    assert not pooled_non_inferiority([same, same], 0.01).holds
    assert pooled_non_inferiority([same, same], 0.02).holds


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda: smallest_margin(0, 0.05), "sizes"),
        (lambda: pooled_margin([], 0.05), "sizes"),
        (lambda: smallest_margin(10, 1.2), "discordance"),
        (lambda: smallest_margin(10, 0.2, power=1), "power"),
        (lambda: smallest_margin(10, 0.2, design_effect=0), "design_effect"),
        (lambda: pooled_non_inferiority([], 0.01), "results"),
        (lambda: pooled_non_inferiority([], 0.0), "margin"),
    ],
)
def test_a_number_out_of_range_is_named(call, key):
    with pytest.raises(ConfigError, match=rf"\({key}\)\. Hint: "):
        call()
