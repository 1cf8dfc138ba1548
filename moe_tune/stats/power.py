"""How many questions a paired comparison needs, and which difference a number of questions can show."""

import math

from scipy.stats import norm

from moe_tune.base.errors import require


def questions_needed(
    discordance: float, diff: float, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> int:
    """Return the smallest number of questions that finds a difference between two arms on the same questions.

    Formula, two-sided: ``n = DEFF (z_{1 - alpha/2} sqrt(pi) + z_power sqrt(pi - D^2))^2 / D^2``, rounded up.

    Args:
        discordance: Share pi of questions on which the arms differ, above 0 and at most 1.
        diff: Difference D of the accuracies, a fraction; its size is above 0 and at most the discordance.
        alpha: Two-sided level of the test, between 0 and 1.
        power: Probability of finding the difference, between 0 and 1.
        design_effect: Squared ratio of the cluster-robust to the independent standard error, above 0.

    Raises:
        ConfigError: A number is out of its range.

    Reference:
        Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43.

    Example:
        >>> questions_needed(0.05, 0.01), questions_needed(0.10, 0.01)
        (3923, 7847)
    """
    _check(discordance, alpha, power, design_effect)
    require(
        0 < abs(diff) <= discordance,
        f"a difference above 0 and at most the discordance, {discordance:g},",
        diff,
        "diff",
        "arms that differ on 5 % of the questions are at most 5 points apart; 0.01 is one point.",
    )
    reach = _z(1 - alpha / 2) * math.sqrt(discordance) + _z(power) * math.sqrt(discordance - diff**2)
    return math.ceil(design_effect * (reach / diff) ** 2)


def smallest_detectable(
    n: int, discordance: float, design_effect: float = 1.0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return the smallest difference that a number of questions finds with a given power; ``inf`` if it finds none.

    Formula, two-sided: the root D of ``n / DEFF = (z_{1 - alpha/2} sqrt(pi) + z_power sqrt(pi - D^2))^2 / D^2``; none
    if it is beyond pi, since arms are no further apart than the share of questions on which they differ.

    Args:
        n: Questions compared, at least 1.
        discordance: Share pi of questions on which the arms differ, 0 to 1; nothing shows a difference at 0.
        design_effect: Squared ratio of the cluster-robust to the independent standard error, above 0.
        alpha: Two-sided level of the test, between 0 and 1.
        power: Probability of finding the difference, between 0 and 1.

    Returns:
        A difference of accuracies as a fraction: 0.01 is one point.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> round(smallest_detectable(14_042, 0.05), 4), smallest_detectable(20, 0.1)
        (0.0053, inf)
    """
    require(n >= 1, "at least 1 question", n, "n", "give the number of questions that are compared.")
    if discordance == 0:
        return math.inf
    _check(discordance, alpha, power, design_effect)
    return _root(n / design_effect, discordance, _z(1 - alpha / 2), _z(power))


def power_of(n: int, discordance: float, diff: float, alpha: float = 0.05, design_effect: float = 1.0) -> float:
    """Return the probability that a comparison finds a difference in its own direction.

    Formula: ``Phi((|D| sqrt(n / DEFF) - z_{1 - alpha/2} sqrt(pi)) / sqrt(pi - D^2))``

    Args:
        n: Questions compared, at least 1.
        discordance: Share pi of questions on which the arms differ, above 0 and at most 1.
        diff: Difference D of the accuracies, a fraction; its size is at most the discordance.
        alpha: Two-sided level of the test, between 0 and 1.
        design_effect: Squared ratio of the cluster-robust to the independent standard error, above 0.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> round(power_of(3_922, 0.05, 0.01), 3)
        0.8
    """
    require(n >= 1, "at least 1 question", n, "n", "give the number of questions that are compared.")
    _check(discordance, alpha, 0.5, design_effect)
    require(
        abs(diff) <= discordance and diff**2 < discordance,
        f"a difference of at most the discordance, {discordance:g},",
        diff,
        "diff",
        "arms that differ on 5 % of the questions are at most 5 points apart; 0.01 is one point.",
    )
    shift = abs(diff) * math.sqrt(n / design_effect) - _z(1 - alpha / 2) * math.sqrt(discordance)
    return float(norm.cdf(shift / math.sqrt(discordance - diff**2)))


def _z(share: float) -> float:
    return float(norm.ppf(share))


def _root(n: float, discordance: float, z_level: float, z_power: float) -> float:
    # (sqrt(n) D - z_level sqrt(pi))^2 = z_power^2 (pi - D^2) is quadratic in D; the sign of z_power picks the root.
    half = math.sqrt(n * discordance) * z_level
    square = n + z_power**2
    within = half**2 - square * discordance * (z_level**2 - z_power**2)
    diff = (half + math.copysign(math.sqrt(max(within, 0.0)), z_power)) / square
    return diff if 0 < diff <= discordance else math.inf


def _check(discordance: float, alpha: float, power: float, design_effect: float) -> None:
    require(
        0 < discordance <= 1,
        "a share of questions above 0 and at most 1",
        discordance,
        "discordance",
        "0.05 to 0.1 is usual where only routers change.",
    )
    require(0 < alpha < 1, "a level between 0 and 1", alpha, "alpha", "0.05 is usual.")
    require(0 < power < 1, "a probability between 0 and 1", power, "power", "0.8 is usual.")
    require(design_effect > 0, "a number above 0", design_effect, "design_effect", "1 for independent questions.")
