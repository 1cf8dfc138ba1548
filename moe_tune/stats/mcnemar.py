"""McNemar's test of two arms on the same questions: exact and mid-p."""

from scipy.stats import binom, binomtest


def mcnemar(n01: int, n10: int) -> tuple[float, float]:
    """Return the exact and the mid-p value of McNemar's test.

    Formula, with m = n01 + n10 and X ~ Bin(m, 1/2)::

        exact = min(1, 2 P[X >= max(n01, n10)]);   mid-p = 2 P[X > max(n01, n10)] + P[X = max(n01, n10)], 1 if n01 = n10

    Reference:
        Fagerland, Lydersen and Laake, 2013, "The McNemar test for binary matched-pairs data: mid-p and asymptotic
        are better than exact conditional", BMC Medical Research Methodology 13:91.

    Example:
        >>> exact, midp = mcnemar(10, 2)
        >>> round(exact, 4), round(midp, 4)
        (0.0386, 0.0225)
        >>> mcnemar(0, 0)
        (1.0, 1.0)
    """
    discordant = n01 + n10
    if n01 == n10:
        return 1.0, 1.0
    larger = max(n01, n10)
    exact = float(binomtest(larger, discordant, 0.5).pvalue)
    midp = 2 * float(binom.sf(larger, discordant, 0.5)) + float(binom.pmf(larger, discordant, 0.5))
    return exact, min(exact, midp)
