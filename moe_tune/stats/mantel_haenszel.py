"""The odds of a correct answer with an expert against those without it, compared within subjects."""

import numpy as np
from scipy.stats import norm

from moe_tune.stats.accuracy_estimates import Estimate
from moe_tune.stats.ratios import Counts, ratio


def mantel_haenszel(
    correct_ES: Counts, questions_ES: Counts, all_correct_S: Counts, all_questions_S: Counts
) -> Estimate:
    """Return the odds ratio of a correct answer where an expert fires, pooled over subjects, with its 95 % interval.

    Formula, with ``a, b`` correct and wrong where the expert fires, ``c, d`` where it does not, ``n`` their sum::

        OR = sum_s a d / n / sum_s b c / n

    The interval is normal in ln OR, with the variance of Robins, Breslow and Greenland. Empty subjects count nothing.
    No infinity comes back: the ratio is NaN where the denominator is 0, the interval where either sum is.

    Shape:
        - (..., S) by subject; (...) returned, 0 and up.

    Reference:
        Robins, Breslow and Greenland 1986, https://doi.org/10.2307/2531052

    Example:
        >>> estimate = mantel_haenszel(np.array([[8, 6]]), np.array([[10, 10]]), np.array([12, 9]), np.array([20, 20]))
        >>> [round(float(end[0]), 2) for end in estimate]
        [4.5, 1.16, 17.4]
    """
    seen = all_questions_S > 0
    a = correct_ES[..., seen].astype(np.float64)
    b = questions_ES[..., seen] - a
    c = all_correct_S[seen] - a
    n = all_questions_S[seen].astype(np.float64)
    d = n - a - b - c
    like, unlike = (a + d) / n, (b + c) / n
    favour, against = a * d / n, b * c / n
    top, bottom = favour.sum(-1), against.sum(-1)
    odds = ratio(top, bottom)
    variance = (
        ratio((like * favour).sum(-1), 2 * top**2)
        + ratio((like * against + unlike * favour).sum(-1), 2 * top * bottom)
        + ratio((unlike * against).sum(-1), 2 * bottom**2)
    )
    reach = np.exp(norm.ppf(0.975) * np.sqrt(variance))
    return Estimate(odds, odds / reach, odds * reach)
