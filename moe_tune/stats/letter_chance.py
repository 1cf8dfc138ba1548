"""How many questions would be right if the given letters had nothing to do with the questions."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def expected_by_letters(gold: Sequence[int], given: Sequence[int]) -> tuple[float, float]:
    """Return the accuracy that answers have if they are dealt to the questions at random, and its standard deviation.

    Formula, over letters l with ``a_l`` answers and ``g_l`` right ones of n questions::

        E = sum_l (a_l / n) (g_l / n)
        Var = 1 / (n^2 (n - 1)) sum_{l, m} g_l a_m ([l = m] - a_l / n - g_m / n + E)^2

    A model that always gives one letter has Var = 0: its accuracy is that letter's share.

    Args:
        gold: Right letter of each question, an index from 0.
        given: Letter answered, an index from 0.

    Raises:
        ValueError: There are fewer than two questions, or not as many answers.

    Reference:
        Hoeffding 1951, "A combinatorial central limit theorem", https://doi.org/10.1214/aoms/1177729545

    Example:
        >>> [round(value, 3) for value in expected_by_letters([0, 1, 0, 1], [0, 0, 1, 1])]
        [0.5, 0.289]
    """
    n = len(gold)
    if n < 2 or len(given) != n:
        raise ValueError(f"expected an answer to each of two or more questions but got {len(given)} to {n}")
    letters = max(*gold, *given) + 1
    right_L = np.bincount(np.asarray(gold, dtype=np.int64), minlength=letters).astype(np.float64)
    given_L = np.bincount(np.asarray(given, dtype=np.int64), minlength=letters).astype(np.float64)
    mean = float(right_L @ given_L) / n**2
    part_LL = np.eye(letters) - given_L[:, None] / n - right_L[None, :] / n + mean
    variance = float(right_L @ part_LL**2 @ given_L) / (n**2 * (n - 1))
    return mean, math.sqrt(variance)


def interval_by_letters(gold: Sequence[int], given: Sequence[int], level: float = 0.999) -> tuple[float, float]:
    """Return the interval that holds the accuracy of answers dealt at random with a probability.

    Formula: ``E -+ (z_{(1 + level) / 2} sd + 1 / (2 n))``; the second part is the correction for counts. Where only one
    letter is given it is the point E.

    Args:
        gold: Right letter of each question, an index from 0.
        given: Letter answered, an index from 0.
        level: The probability, between 0 and 1.

    Example:
        >>> interval_by_letters([0, 1, 0, 1], [0, 0, 0, 0])
        (0.5, 0.5)
    """
    mean, sd = expected_by_letters(gold, given)
    reach = NormalDist().inv_cdf((1 + level) / 2) * sd + 0.5 / len(gold) if sd > 0 else 0.0
    return max(0.0, mean - reach), min(1.0, mean + reach)
