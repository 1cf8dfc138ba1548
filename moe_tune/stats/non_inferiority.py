"""Non-inferiority: a change costs less than a margin on questions it was not made for, on one set or a pool of sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from moe_tune.base.errors import require
from moe_tune.stats.decision import FEWEST_SEEDS
from moe_tune.stats.paired import PairedResult
from moe_tune.stats.standard_error import total_se

ALPHA, POWER = 0.05, 0.8
"""One-sided level of the test, and the power that a margin should have where nothing changed."""


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The test of one set or pool; all are fractions.

    Attributes:
        diff: Difference to the baseline.
        low: Its lower one-sided bound at level 1 - alpha.
        margin: What it may cost, above 0.
    """

    diff: float
    low: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the change is non-inferior: its lower bound lies above minus the margin."""
        return self.low > -self.margin

    @property
    def word(self) -> str:
        """The finding in words; that it is not shown is no finding of harm."""
        return "non-inferior" if self.holds else "not shown non-inferior"


def smallest_margin(
    n: int, discordance: float, design_effect: float = 1.0, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest margin that a set of questions can test.

    Formula, at a true difference of 0: ``(z_{1 - alpha} + z_power) sqrt(DEFF pi / n)``

    Args:
        n: Questions, at least 1.
        discordance: Share pi of questions on which the arms differ, 0 to 1.
        design_effect: Squared ratio of the cluster-robust to the independent standard error, above 0.
        alpha: One-sided level, between 0 and 1.
        power: Probability of showing it, between 0 and 1.

    Returns:
        The margin as a fraction: 0.01 is one point.

    Raises:
        ConfigError: A number is out of its range.

    Reference:
        Blackwelder 1982, "Proving the null hypothesis in clinical trials", https://doi.org/10.1016/0197-2456(82)90024-1

    Example:
        >>> [round(100 * smallest_margin(10_042, share), 2) for share in (0.05, 0.10)]
        [0.55, 0.78]
    """
    return pooled_margin([n], discordance, design_effect, alpha, power)


def pooled_margin(
    sizes: Sequence[int], discordance: float, design_effect: float = 1.0, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest margin that the macro average over sets can test.

    Formula, J sets of n_j questions: ``(z_{1 - alpha} + z_power) sqrt(DEFF pi sum_j 1 / n_j) / J``

    Args:
        sizes: Questions of each set, at least 1.
        discordance: Share pi of questions on which the arms differ, alike on all sets, 0 to 1.
        design_effect: Squared ratio of the cluster-robust to the independent standard error, above 0.
        alpha: One-sided level, between 0 and 1.
        power: Probability of showing it, between 0 and 1.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        >>> round(100 * pooled_margin([10_042, 3_270, 1_267, 1_838], 0.05), 2)
        0.58
    """
    require(len(sizes) > 0 and min(sizes) >= 1, "sets of at least 1 question", list(sizes), "sizes", "count them.")
    require(0 <= discordance <= 1, "a share from 0 to 1", discordance, "discordance", "0.05 to 0.1 is usual.")
    require(design_effect > 0, "a number above 0", design_effect, "design_effect", "1 for independent questions.")
    for key, value in (("alpha", alpha), ("power", power)):
        require(0 < value < 1, "a probability between 0 and 1", value, key, "alpha 0.05 and power 0.8 are usual.")
    reach = float(norm.ppf(1 - alpha)) + float(norm.ppf(power))
    return reach * math.sqrt(design_effect * discordance * sum(1 / n for n in sizes)) / len(sizes)


def non_inferiority(result: PairedResult, margin: float) -> NonInferiority:
    """Test one set: the lower one-sided 95 % bound is the lower end of the comparison's 90 % interval.

    Args:
        result: The paired comparison.
        margin: What the change may cost, a fraction above 0.

    Raises:
        ConfigError: The margin is not above 0.
    """
    require(margin > 0, "a margin above 0", margin, "margin", "0.01 is one point.")
    return NonInferiority(result.diff, result.ci90[0], margin)


def pooled_non_inferiority(results: Sequence[PairedResult], margin: float) -> NonInferiority:
    """Test the macro average over sets that the same runs answered.

    Formula, J sets, S seeds: ``D = mean_j D_j``, bound ``D - t_df SE``; ``SE^2 = sum_j SE_cj^2 / J^2 + sd(D_s)^2 / S``
    with ``D_s`` the macro average of a seed, and the second part only from five seeds on.

    Args:
        results: The paired comparison of each set; the seeds are the same ones.
        margin: What the change may cost on average, a fraction above 0.

    Raises:
        ConfigError: The margin is not above 0, there is no set, or the sets have other seeds.
    """
    require(margin > 0, "a margin above 0", margin, "margin", "0.01 is one point.")
    seeds = {one.seeds for one in results}
    require(len(seeds) == 1, "sets answered by the same seeds", sorted(seeds), "results", "test every run on all sets.")
    diff = float(np.mean([one.diff for one in results]))
    square = sum(one.design_effect * one.se_paired**2 for one in results) / len(results) ** 2
    diff_S = np.mean([one.seed_diffs for one in results], axis=0)
    spread_S = diff_S if len(diff_S) >= FEWEST_SEEDS else np.array([diff])
    se, df = total_se(math.sqrt(square), sum(one.clusters for one in results) - len(results) + 1, spread_S)
    low = diff - float(student.ppf(1 - ALPHA, df)) * se
    if se == 0:  # nothing changed; each set's own bound says how much may have gone unseen
        low = float(np.mean([one.ci90[0] for one in results]))
    return NonInferiority(diff, low, margin)
