"""Calibration and letter bias against torchmetrics and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from moe_tune.stats.letter_quality import BINS, letter_quality


def answers(n=400, letters=4, seed=0):
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.ones(letters), n))
    return log_probs - rng.random((n, 1)), rng.integers(0, letters, n)  # letters have only a share of the mass


def test_ece_agrees_with_torchmetrics():
    log_probs, gold_Q = answers()
    probs = torch.softmax(torch.tensor(log_probs), -1)
    wanted = multiclass_calibration_error(probs, torch.tensor(gold_Q), 4, n_bins=BINS, norm="l1")
    assert letter_quality(list(log_probs), gold_Q).ece == pytest.approx(float(wanted), abs=1e-6)


def test_letter_mass_does_not_count():
    log_probs, gold_Q = answers()
    shifted, plain = letter_quality(list(log_probs - 3), gold_Q), letter_quality(list(log_probs), gold_Q)
    assert (shifted.ece, shifted.brier, shifted.loss) == pytest.approx((plain.ece, plain.brier, plain.loss))


def test_one_letter_for_all_is_the_largest_bias_and_right_and_sure_is_nothing():
    gold_Q = np.arange(40) % 4
    same = letter_quality([np.log([0.97, 0.01, 0.01, 0.01])] * 40, gold_Q)
    assert same.recall_spread == pytest.approx(np.std([1, 0, 0, 0]))
    sure = letter_quality([np.log(np.eye(4)[gold] * (1 - 4e-9) + 1e-9) for gold in gold_Q], gold_Q)
    assert (sure.ece, sure.brier, sure.loss, sure.recall_spread) == pytest.approx((0, 0, 0, 0), abs=1e-7)


def test_questions_may_have_different_numbers_of_choices():
    found = letter_quality([np.log([0.5, 0.5]), np.log([0.1, 0.2, 0.7])], np.array([0, 2]))
    assert found.share_A == (0.5, 0.0, 0.5)
    assert found.brier == pytest.approx((0.5 + 0.14) / 2)
