"""Is text still predicted as well: two models' losses on the same documents, with a bootstrap over documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.stats.ratios import Counts, Floats

MARGIN = 1.01
"""The perplexity ratio up to which text counts as kept."""
DRAWS, SEED = 10_000, 0
"""Bootstrap draws, and their seed."""
IN_MEMORY = 2_000_000
"""Drawn documents that are in memory at a time."""

Kept = Literal["kept", "harmed", "open"]
"""Whether the perplexity ratio is at most ``MARGIN``, above it, or not shown to be either (one-sided, 5 % each)."""


@dataclass(frozen=True, slots=True)
class TextResult:
    """What the comparison of an arm's next-token losses with the baseline's says.

    Attributes:
        documents: Documents compared.
        clusters: Groups of documents with equal content.
        tokens: Tokens scored.
        baseline_loss: Mean loss of the baseline, nats per token.
        loss: The same of the arm, mean over seeds.
        diff: ``loss - baseline_loss``.
        ci95: 95 % interval of ``diff``.
        ratio: Perplexity of the arm over that of the baseline, ``exp(diff)``.
        ratio_ci95: Its 95 % interval.
        ratio_ci90: Its 90 % interval, whose ends are the one-sided bounds at 5 %.
        seed_diffs: Difference of each seed, in the order given.
        kept: Whether text is kept.
    """

    documents: int
    clusters: int
    tokens: int
    baseline_loss: float
    loss: float
    diff: float
    ci95: tuple[float, float]
    ratio: float
    ratio_ci95: tuple[float, float]
    ratio_ci90: tuple[float, float]
    seed_diffs: tuple[float, ...]
    kept: Kept


def compare_text(
    baseline_SD: Floats,
    arm_SD: Floats,
    tokens_D: Counts,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> TextResult:
    """Compare the losses of an arm with those of the baseline, document by document.

    Formula: ``D = sum_d mean_s (a_sd - b_sd) / sum_d n_d``, perplexity ratio ``exp(D)``; the intervals are percentiles
    of D over documents drawn with replacement, of equal content together. They speak of these seeds' routers.

    Args:
        baseline_SD: Summed losses of each document in nats; one row for all seeds, or one per seed of the arm.
        arm_SD: The same of the arm; one row per seed.
        tokens_D: Tokens scored of each document, at least 1.
        clusters: Content hash of each document; ``None`` takes every document as its own.
        draws: Bootstrap draws, 1 and up.
        seed: Their seed.

    Raises:
        DataError: All documents are the same one, so that nothing can be said about others.

    Reference:
        Efron and Tibshirani 1993, "An Introduction to the Bootstrap" (percentile intervals of a ratio of sums).

    Example:
        >>> base, tokens = np.array([[10.0, 22.0, 29.0]]), np.array([10, 20, 30])
        >>> found = compare_text(base, base + 0.1 * tokens, tokens)
        >>> round(found.diff, 6), round(found.ratio, 4), found.kept
        (0.1, 1.1052, 'harmed')
    """
    names = range(len(tokens_D)) if clusters is None else clusters
    cluster_D = pd.factorize(np.asarray(names, dtype=object))[0]
    diff_SD = np.asarray(arm_SD, dtype=np.float64) - baseline_SD
    diff_C: Floats = np.asarray(np.bincount(cluster_D, weights=diff_SD.mean(axis=0)), dtype=np.float64)
    tokens_C: Floats = np.asarray(np.bincount(cluster_D, weights=tokens_D), dtype=np.float64)
    if len(diff_C) < 2:
        raise DataError(
            f"expected at least two different documents but got {len(diff_C)} (text). "
            "Hint: give the source more documents; blank lines part those of a single .txt file."
        )
    total = float(tokens_C.sum())
    diff = float(diff_C.sum()) / total
    drawn = bootstrapped(diff_C, tokens_C, draws, seed)
    ends = [float(end) for end in np.quantile(drawn, [0.025, 0.05, 0.95, 0.975])]
    ratio_ends = [float(end) for end in np.exp(ends)]
    return TextResult(
        documents=len(tokens_D),
        clusters=len(diff_C),
        tokens=int(total),
        baseline_loss=float(np.sum(baseline_SD.mean(axis=0))) / total,
        loss=float(np.sum(arm_SD.mean(axis=0))) / total,
        diff=diff,
        ci95=(ends[0], ends[3]),
        ratio=float(np.exp(diff)),
        ratio_ci95=(ratio_ends[0], ratio_ends[3]),
        ratio_ci90=(ratio_ends[1], ratio_ends[2]),
        seed_diffs=tuple(float(one) / total for one in diff_SD.sum(axis=1)),
        kept="kept" if ratio_ends[2] <= MARGIN else "harmed" if ratio_ends[1] > MARGIN else "open",
    )


def bootstrapped(sum_C: Floats, count_C: Floats, draws: int, seed: int) -> Floats:
    """Return ``sum / count`` of each draw of as many groups, with replacement.

    Shape:
        - (C,), (C,); returns (draws,).
    """
    random, groups = np.random.default_rng(seed), len(sum_C)
    found: list[Floats] = []
    step = max(1, IN_MEMORY // groups)
    for start in range(0, draws, step):
        drawn_RC = random.integers(0, groups, (min(step, draws - start), groups))
        found.append(sum_C[drawn_RC].sum(axis=1) / count_C[drawn_RC].sum(axis=1))
    return np.concatenate(found)
