"""Answers that have nothing to do with the questions are right as often as the letters' shares say."""

import numpy as np
import pytest

from moe_tune.stats.letter_chance import expected_by_letters, interval_by_letters


@pytest.mark.parametrize("letters", [2, 4, 5])
def test_mean_and_spread_are_those_of_shuffled_answers(letters):
    draws = np.random.default_rng(letters)
    gold = draws.choice(letters, 300, p=draws.dirichlet(np.ones(letters)))
    given = draws.choice(letters, 300, p=draws.dirichlet(np.ones(letters)))
    mean, sd = expected_by_letters(gold.tolist(), given.tolist())
    shuffled = np.array([np.mean(draws.permutation(given) == gold) for _ in range(20_000)])
    assert shuffled.mean() == pytest.approx(mean, abs=5 * sd / np.sqrt(20_000))
    assert shuffled.std() == pytest.approx(sd, rel=0.03)
    low, high = interval_by_letters(gold.tolist(), given.tolist(), 0.95)
    assert 0.95 <= np.mean((low <= shuffled) & (shuffled <= high)) <= 0.975


def test_a_model_that_reads_the_questions_is_outside():
    draws = np.random.default_rng(0)
    gold = draws.integers(0, 4, 400)
    given = np.where(draws.random(400) < 0.3, gold, draws.integers(0, 4, 400))
    assert np.mean(gold == given) > interval_by_letters(gold.tolist(), given.tolist())[1]


def test_one_letter_is_right_as_often_as_it_is_the_answer():
    assert expected_by_letters([0, 0, 1, 2], [0, 0, 0, 0]) == (0.5, 0.0)
    with pytest.raises(ValueError, match="expected an answer to each"):
        expected_by_letters([0, 1], [0])
