"""How the questions of an expert went, compared with all questions and with the subjects it meets."""

from typing import NamedTuple

import numpy as np
from scipy.stats import beta
from statsmodels.stats.proportion import proportion_confint

from moe_tune.stats.ratios import Counts, Floats, ratio
from moe_tune.stats.shrinkage import LARGEST_WEIGHT, moment_weight


class Estimate(NamedTuple):
    """A value and its 95 % interval, arrays of one shape; NaN where nothing is known.

    Args:
        value: The estimates.
        low: Lower ends.
        high: Upper ends.
    """

    value: Floats
    low: Floats
    high: Floats


def raw_accuracy(correct: Counts, questions: Counts) -> Estimate:
    """Return the share of correct answers with Wilson's 95 % interval.

    Shape:
        - any, the same for both and for the result.

    Reference:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953

    Example:
        >>> estimate = raw_accuracy(np.array([8]), np.array([10]))
        >>> [round(float(end[0]), 3) for end in estimate]
        [0.8, 0.49, 0.943]
    """
    correct, questions = np.asarray(correct), np.asarray(questions)
    known = questions > 0
    ends = np.full((2, *questions.shape), np.nan)
    ends[:, known] = proportion_confint(correct[known], questions[known], alpha=0.05, method="wilson")
    return Estimate(ratio(correct, questions), ends[0], ends[1])


def accuracy_text(correct: int, questions: int) -> str:
    """Return a split's accuracy with its interval and n.

    Example:
        >>> accuracy_text(1, 4)
        '25.0 % (n 4, 95 % Wilson interval 4.6 to 69.9)'
    """
    value, low, high = (100 * float(end) for end in raw_accuracy(np.array(correct), np.array(questions)))
    return f"{value:.1f} % (n {questions:,}, 95 % Wilson interval {low:.1f} to {high:.1f})"


def shrunk_accuracy(correct_E: Counts, questions_E: Counts) -> Estimate:
    """Return the accuracy of a layer's experts, each drawn towards their common mean, the fewer its questions the more.

    The interval takes the layer's mean and spread as known. Where the experts differ no more than chance makes them,
    all get the layer's mean.

    Formula, with ``p = sum k / sum n`` and M from ``moment_weight``: ``value = (k + M p) / (n + M)``, ``p`` where there
    is no M; the interval is from the 2.5 % to the 97.5 % point of Beta(k + M p, n - k + M (1 - p)).

    Shape:
        - (E,) for both and for the result.

    Reference:
        Kleinman 1973, "Proportions with extraneous variance", https://doi.org/10.1080/01621459.1973.10481332

    Example:
        >>> shrunk_accuracy(np.array([30, 50]), np.array([60, 100])).value.tolist()
        [0.5, 0.5]
    """
    known = questions_E > 0
    value, low, high = (np.full(questions_E.shape, np.nan) for _ in range(3))
    if not known.any():
        return Estimate(value, low, high)
    k, n = correct_E[known].astype(np.float64), questions_E[known].astype(np.float64)
    p, fitted = k.sum() / n.sum(), moment_weight(correct_E, questions_E)
    weight = LARGEST_WEIGHT if fitted is None else fitted
    value[known] = p if fitted is None else (k + weight * p) / (n + weight)
    if 0 < p < 1:
        low[known], high[known] = (beta.ppf(q, k + weight * p, n - k + weight * (1 - p)) for q in (0.025, 0.975))
    else:
        low[known] = high[known] = p
    return Estimate(value, low, high)


def risk_difference(correct: Counts, questions: Counts, all_correct: int, all_questions: int) -> Floats:
    """Return how much more often an expert fires on correctly answered questions than on the others.

    Formula: ``P(fires | correct) - P(fires | wrong)``

    Shape:
        - any, the same for both and for the result; in [-1, 1].

    Reference:
        Fayyaz et al. 2025, "SteerMoE", https://arxiv.org/abs/2509.09660

    Example:
        >>> risk_difference(np.array([0]), np.array([2]), 6, 10).tolist()
        [-0.5]
    """
    wrong = np.asarray(questions) - np.asarray(correct)
    return ratio(correct, np.array(all_correct)) - ratio(wrong, np.array(all_questions - all_correct))


def subject_gap(correct_ES: Counts, questions_ES: Counts, all_correct_S: Counts, all_questions_S: Counts) -> Floats:
    """Return each expert's accuracy minus what the accuracy of its questions' subjects predicts.

    Formula: ``sum_s (k_es - n_es K_s / N_s) / n_e``

    Shape:
        - (..., S) by subject; (...) returned, in [-1, 1], NaN where an expert has no questions.

    Reference:
        This project's; indirect standardisation by subject.

    Example:
        >>> subject_gap(np.array([[3, 1]]), np.array([[4, 4]]), np.array([6, 2]), np.array([8, 8])).tolist()
        [0.0]
    """
    predicted_ES = questions_ES * np.nan_to_num(ratio(all_correct_S, all_questions_S))
    return ratio((correct_ES - predicted_ES).sum(-1), questions_ES.sum(-1))
