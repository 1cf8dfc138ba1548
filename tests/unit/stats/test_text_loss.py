"""The comparison of losses on text: a planted effect is found, nothing is found where there is none."""

import numpy as np
import pytest

from moe_tune.base.errors import DataError
from moe_tune.stats.text_loss import compare_text


def losses(documents=400, seed=0, tokens=128):
    draw = np.random.default_rng(seed)
    tokens_D = draw.integers(tokens // 4, tokens, documents)
    level_D = draw.gamma(9, 0.3, documents)  # nats per token, as documents differ
    return level_D * tokens_D, tokens_D, draw


def test_two_per_cent_more_loss_on_400_documents_are_found():
    base_D, tokens_D, draw = losses()
    arm_D = 1.02 * base_D + draw.normal(0, 0.05, len(base_D)) * tokens_D
    found = compare_text(base_D[None], arm_D[None], tokens_D)
    wanted = 0.02 * base_D.sum() / tokens_D.sum()
    assert 0 < found.ci95[0] < wanted < found.ci95[1]
    assert found.kept == "harmed"
    assert found.diff == pytest.approx(found.loss - found.baseline_loss, rel=1e-9)
    assert found.ratio_ci95 == pytest.approx(tuple(np.exp(found.ci95)))
    swapped = compare_text(arm_D[None], base_D[None], tokens_D)
    assert swapped.ci95 == pytest.approx(tuple(-end for end in reversed(found.ci95)), rel=0.05)
    assert swapped.kept == "better"


def test_a_tenth_of_that_is_kept_and_noise_is_open():
    base_D, tokens_D, draw = losses()
    assert compare_text(base_D[None], 1.002 * base_D[None], tokens_D).kept == "kept"
    assert compare_text(base_D[None], 0.998 * base_D[None], tokens_D).kept == "better"
    noisy_D = base_D + draw.normal(0, 0.5, len(base_D)) * tokens_D
    assert compare_text(base_D[None], noisy_D[None], tokens_D).kept == "open"


def test_equal_losses_differ_by_exactly_nothing():
    base_D, tokens_D, _ = losses(documents=20)
    found = compare_text(base_D[None], base_D[None], tokens_D)
    assert (found.diff, found.ci95, found.ratio, found.ratio_ci95) == (0.0, (0.0, 0.0), 1.0, (1.0, 1.0))
    assert found.kept == "kept"


def test_intervals_hold_the_truth_in_95_of_100_cases():
    held, trials = 0, 400
    for trial in range(trials):
        base_D, tokens_D, draw = losses(documents=100, seed=trial)
        arm_D = base_D + draw.normal(0.03, 0.2, len(base_D)) * tokens_D
        low, high = compare_text(base_D[None], arm_D[None], tokens_D, draws=500).ci95
        held += low <= 0.03 <= high
    assert 0.91 <= held / trials <= 0.98


def test_the_interval_is_that_of_the_ratios_linearised_error():
    base_D, tokens_D, draw = losses(documents=1000)
    diff_D = draw.normal(0.01, 0.1, len(base_D)) * tokens_D
    found = compare_text(base_D[None], (base_D + diff_D)[None], tokens_D)
    error = np.sqrt(((diff_D - found.diff * tokens_D) ** 2).sum()) / tokens_D.sum()
    low, high = found.ci95
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_copies_are_one_document_and_their_order_says_nothing():
    base_D, tokens_D, draw = losses(documents=60)
    arm_D, names = base_D + draw.normal(0, 3, 60), [str(one) for one in range(60)]
    alone = compare_text(base_D[None], arm_D[None], tokens_D, names)
    twice = [np.tile(one, 2) for one in (base_D, arm_D, tokens_D)]
    copied = compare_text(twice[0][None], twice[1][None], twice[2], names * 2)
    assert copied.ci95 == pytest.approx(alone.ci95, rel=1e-9)
    assert (copied.documents, copied.clusters) == (120, 60)
    with pytest.raises(DataError, match="two different documents"):
        compare_text(base_D[None], arm_D[None], tokens_D, ["one"] * 60)


def test_several_seeds_are_averaged_and_pair_with_one_baseline_or_one_each():
    base_D, tokens_D, _ = losses(documents=50)
    arm_SD = base_D + np.array([[0.1], [0.3]]) * tokens_D
    found = compare_text(base_D[None], arm_SD, tokens_D)
    assert found.diff == pytest.approx(0.2)
    assert found.seed_diffs == pytest.approx((0.1, 0.3))
    each = compare_text(arm_SD, arm_SD + tokens_D, tokens_D)
    assert each.seed_diffs == pytest.approx((1.0, 1.0))
