"""Is text still predicted as well: two models' losses on the same documents, with a bootstrap over documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.stats.bootstrap import DRAWS, ratio_bootstrap
from moe_tune.stats.ratios import Counts, Floats

MARGIN = 1.01
"""The perplexity ratio up to which text counts as kept."""

Kept = Literal["better", "kept", "harmed", "open"]
"""Whether the perplexity ratio is below 1, at most ``MARGIN``, above it, or shown to be none (one-sided, 5 % each)."""


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
        kept: Whether text is kept, and if so whether it got better.
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
    seed: int = 0,
) -> TextResult:
    """Compare the losses of an arm with those of the baseline, document by document.

    Formula: ``D = sum_d mean_s (a_sd - b_sd) / sum_d n_d``, perplexity ratio ``exp(D)``; the intervals are those of
    D over documents drawn with replacement, of equal content together. They speak of these seeds' routers.

    Args:
        baseline_SD: Summed losses of each document in nats; one row for all seeds, or one per seed of the arm.
        arm_SD: The same of the arm; one row per seed.
        tokens_D: Tokens scored of each document, at least 1.
        clusters: Content hash of each document; ``None`` takes every document as its own.
        draws: Bootstrap draws, 1 and up.
        seed: Their seed.

    Raises:
        DataError: All documents are the same one, so that nothing can be said about others.

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
    ci95, ci90 = (ratio_bootstrap(diff_C, tokens_C, draws, seed, level) for level in (0.95, 0.90))
    (low95, high95), (low90, high90) = ((float(np.exp(low)), float(np.exp(high))) for low, high in (ci95, ci90))
    return TextResult(
        documents=len(tokens_D),
        clusters=len(diff_C),
        tokens=int(total),
        baseline_loss=float(np.sum(baseline_SD.mean(axis=0))) / total,
        loss=float(np.sum(arm_SD.mean(axis=0))) / total,
        diff=diff,
        ci95=ci95,
        ratio=float(np.exp(diff)),
        ratio_ci95=(low95, high95),
        ratio_ci90=(low90, high90),
        seed_diffs=tuple(float(one) / total for one in diff_SD.sum(axis=1)),
        kept=_word(low90, high90),
    )


def _word(low90: float, high90: float) -> Kept:
    if high90 < 1:
        return "better"
    return "kept" if high90 <= MARGIN else "harmed" if low90 > MARGIN else "open"
