"""The letter-bias model finds a planted bias and invents none."""

import numpy as np
import pytest
from scipy.special import log_softmax

from moe_tune.stats.letter_offsets import fitted_offsets, padded


def drawn(offsets, n=20_000, seed=0):
    """Return biased log-probabilities of questions whose right letters follow the unbiased ones."""
    rng = np.random.default_rng(seed)
    logits_QA = rng.normal(size=(n, len(offsets)))
    gold_Q = (logits_QA + rng.gumbel(size=logits_QA.shape)).argmax(axis=1)
    return log_softmax(logits_QA - offsets, axis=1), gold_Q


@pytest.mark.parametrize("offsets", [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, -0.5, 0.25], [0.0, -2.0]])
def test_what_was_taken_away_is_given_back(offsets):
    assert fitted_offsets(*drawn(np.array(offsets))) == pytest.approx(offsets, abs=0.06)


def test_letters_that_a_question_lacks_stay_impossible():
    table_QA = padded([np.log([0.5, 0.5]), np.log([0.2, 0.3, 0.5])] * 50)
    offsets_A = fitted_offsets(table_QA, np.array([0, 2] * 50))
    assert np.isfinite(offsets_A).all()
    assert np.isneginf((table_QA + offsets_A)[0, 2])
