"""What "never activated" leaves open: how often an expert may fire that did not in the questions seen."""

import math


def never_bound(questions: int, experts: int = 1) -> float:
    """Return the upper 95 % bound of the share of questions on which an expert fires that was never seen to fire.

    Formula: ``1 - (0.05 / experts)^(1 / N)``, about 3 / N for one expert and 9.9 / N for 1,024 at once (Bonferroni).

    Reference:
        Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?",
        https://doi.org/10.1001/jama.1983.03330370053031

    Example:
        >>> f"{never_bound(1531):.2%} {never_bound(1531, 1024):.2%}"
        '0.20% 0.65%'
    """
    return -math.expm1(math.log(0.05 / experts) / questions) if questions else 1.0
