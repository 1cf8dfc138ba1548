"""How well letter probabilities mean what they say, and whether answers lean on a letter."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True)
class LetterQuality:
    """Calibration and letter bias of one set of answers.

    Attributes:
        ece: Expected calibration error, 0 to 1: mean distance of confidence and accuracy over bins of confidence.
        brier: Brier score over the letters, 0 (right and sure) to 2.
        loss: Mean negative log-probability of the right letter among the letters, nats.
        recall_spread: Standard deviation over letters of the share answered right where the letter is the right one,
            0 to 1; 0 where no letter is preferred. NaN with fewer than two letters.
        share_A: Share of answers on each letter.
    """

    ece: float
    brier: float
    loss: float
    recall_spread: float
    share_A: tuple[float, ...]


def letter_quality(log_probs: Sequence[NDArray[np.float64]], gold_Q: NDArray[np.intp]) -> LetterQuality:
    """Return calibration and letter bias of answers, with probabilities that sum to 1 over a question's letters.

    Formula, c_i the probability of the answer, r_i whether it is right, bins of equal width::

        ECE = sum_b n_b / n |mean_b r_i - mean_b c_i|;  Brier = mean_i sum_a (p_ia - [a = gold_i])^2

    Args:
        log_probs: For each question the log-probability of each of its letters.
        gold_Q: The place of each right letter, from 0.

    Reference:
        Guo et al. 2017, https://arxiv.org/abs/1706.04599 (ECE); Zheng et al. 2024, https://arxiv.org/abs/2309.03882
        (spread of recall as letter bias)

    Example:
        >>> sure = np.log(np.array([0.98, 0.01, 0.01]))
        >>> found = letter_quality([sure, sure], np.array([0, 1]))
        >>> round(found.ece, 2), found.share_A
        (0.48, (1.0, 0.0, 0.0))
    """
    letters = max(map(len, log_probs))
    logits_QA = np.full((len(log_probs), letters), -np.inf)
    for place, row in enumerate(log_probs):
        logits_QA[place, : len(row)] = row
    shifted_QA = logits_QA - logits_QA.max(axis=1, keepdims=True)
    log_QA = shifted_QA - np.log(np.exp(shifted_QA).sum(axis=1, keepdims=True))
    probs_QA, rows_Q = np.exp(log_QA), np.arange(len(gold_Q))
    given_Q = probs_QA.argmax(axis=1)
    confidence_Q, right_Q = probs_QA[rows_Q, given_Q], given_Q == gold_Q

    bin_Q = np.minimum((confidence_Q * BINS).astype(np.intp), BINS - 1)
    gap_B = np.bincount(bin_Q, weights=right_Q - confidence_Q, minlength=BINS)
    asked_A = np.bincount(gold_Q, minlength=letters)
    recall_A = np.bincount(gold_Q, weights=right_Q, minlength=letters)[asked_A > 0] / asked_A[asked_A > 0]
    return LetterQuality(
        ece=float(np.abs(gap_B).sum() / len(gold_Q)),
        brier=float(np.mean((probs_QA**2).sum(axis=1) - 2 * probs_QA[rows_Q, gold_Q] + 1)),
        loss=float(-log_QA[rows_Q, gold_Q].mean()),
        recall_spread=float(recall_A.std()) if len(recall_A) > 1 else float("nan"),
        share_A=tuple((np.bincount(given_Q, minlength=letters) / len(given_Q)).tolist()),
    )
