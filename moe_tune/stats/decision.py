"""The decision rule: four words, fixed before anyone looks at the result."""

from collections.abc import Sequence
from typing import Literal

Word = Literal["baseline", "improved", "worse", "equivalent", "inconclusive"]

MARGIN = 0.01
"""Differences smaller than this, one point, count as equivalent."""
ONE_ROUTER, THESE_ROUTERS = "this router only", "these routers only"
BELOW_MARGIN, SIGN_HOLDS, CORRECTED_AWAY = "below 1 point", "sign holds under", "not after correction"
"""How the notes beside a decision begin."""
FEWEST_SEEDS = 5
"""Seeds a decision about a recipe needs; with fewer the interval over seeds is too narrow (with two it rejects a true
null in 7 to 15 % of cases), and a decision speaks of the routers at hand."""


def decide(
    ci95: tuple[float, float],
    ci90: tuple[float, float],
    midp: float,
    seeds: int,
    protocol_diffs: Sequence[float] = (),
    corrected: float | None = None,
) -> tuple[Word, str]:
    """Return the decision word and a note that belongs beside it.

    *improved*: the 95 % interval lies above 0, the median seed's mid-p is below 0.05, also after Holm's correction for
    the number of arms, and, where the same questions were asked in three or more ways, at least two thirds of them
    agree in sign. *worse*: its mirror. *equivalent*: the 90 % interval lies inside one point around 0. Otherwise
    *inconclusive*.

    Args:
        ci95: 95 % interval of the difference, as fractions.
        ci90: 90 % interval of the difference.
        midp: Mid-p value of McNemar's test for the median seed, or what stands in its place where content repeats.
        seeds: Number of seeds; fewer than five are labelled "this router only" or "these routers only".
        protocol_diffs: Difference under each of the protocols that the same questions were asked under.
        corrected: ``midp`` corrected for the number of arms, if there are several.

    Example:
        >>> decide((0.004, 0.008), (0.005, 0.007), 0.001, seeds=5)
        ('improved', 'below 1 point')
        >>> decide((-0.02, 0.03), (-0.01, 0.02), 0.4, seeds=1)
        ('inconclusive', 'this router only')
    """
    equivalent = max(abs(ci90[0]), abs(ci90[1])) < MARGIN
    word: Word = "equivalent" if equivalent else "inconclusive"
    notes = []
    sign = 1 if ci95[0] > 0 else -1 if ci95[1] < 0 else 0
    if sign and midp < 0.05:
        agreeing = sum(sign * diff > 0 for diff in protocol_diffs)
        if corrected is not None and corrected >= 0.05:
            notes.append(CORRECTED_AWAY)
        elif len(protocol_diffs) >= 3 and 3 * agreeing < 2 * len(protocol_diffs):
            notes.append(f"{SIGN_HOLDS} {agreeing} of {len(protocol_diffs)} protocols")
        else:
            word = "improved" if sign > 0 else "worse"
            notes += [BELOW_MARGIN] if equivalent else []
    notes += [ONE_ROUTER if seeds == 1 else THESE_ROUTERS] if seeds < FEWEST_SEEDS else []
    return word, "; ".join(notes)
