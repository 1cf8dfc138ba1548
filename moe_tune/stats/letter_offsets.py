"""The letter-bias model: one offset per letter on fixed log-probabilities, and nothing else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax


def padded(log_probs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return log-probabilities as one table; letters that a question does not have are at minus infinity."""
    table_QA = np.full((len(log_probs), max(map(len, log_probs))), -np.inf)
    for place, row in enumerate(log_probs):
        table_QA[place, : len(row)] = row
    return table_QA


def fitted_offsets(log_probs_QA: NDArray[np.float64], gold_Q: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the offset per letter that makes right letters likeliest; the first is 0.

    Formula: ``argmin_b - sum_i log softmax(z_i + b)[gold_i]``, which is convex.

    Args:
        log_probs_QA: Log-probabilities of the letters.
        gold_Q: The right letters, from 0.

    Example:
        >>> even = np.zeros((100, 2))
        >>> gold = np.array([0] * 75 + [1] * 25)
        >>> fitted_offsets(even, gold).round(3).tolist()  # log(25 / 75)
        [0.0, -1.099]
    """
    rows_Q, letters = np.arange(len(gold_Q)), log_probs_QA.shape[1]
    asked_A = np.bincount(gold_Q, minlength=letters)

    def loss(free_A: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        shifted_QA = log_probs_QA + np.concatenate([[0.0], free_A])
        value = -float(log_softmax(shifted_QA, axis=1)[rows_Q, gold_Q].mean())
        slope_A = (softmax(shifted_QA, axis=1).sum(axis=0) - asked_A) / len(gold_Q)
        return value, slope_A[1:]

    found = minimize(loss, np.zeros(letters - 1), jac=True, method="L-BFGS-B", bounds=[(-20.0, 20.0)] * (letters - 1))
    return np.concatenate([[0.0], found.x])
