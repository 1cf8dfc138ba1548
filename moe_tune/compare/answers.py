"""What the answers of an arm are like beside their number: calibration, lean to a letter, and which ones changed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_tune.compare.runs import Run
from moe_tune.stats.letter_quality import LetterQuality, letter_quality

FLIPS = ["id", "subject", "gold", "before", "after", "change"]


def arm_quality(runs: Sequence[Run], split: str) -> LetterQuality | None:
    """Return calibration and letter bias of an arm on a split, mean over its seeds.

    Returns:
        ``None`` if a run recorded no log-probabilities.
    """
    found = []
    for run in runs:
        table = run.questions[split]
        if "log_probs" not in table or table["log_probs"].isna().any():
            return None
        found.append(letter_quality(list(table["log_probs"]), table["gold"].to_numpy()))
    ece, brier, loss, spread = np.mean([(one.ece, one.brier, one.loss, one.recall_spread) for one in found], axis=0)
    shares = np.mean([one.share_A for one in found], axis=0)
    return LetterQuality(float(ece), float(brier), float(loss), float(spread), tuple(shares.tolist()))


def flipped(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return the questions that became right (``gained``) or wrong (``lost``), both tables ordered by id."""
    right_before, right = before["prediction"] == before["gold"], after["prediction"] == after["gold"]
    changed = right_before != right
    found = after.loc[changed, ["id", "subject", "gold"]].assign(
        before=before.loc[changed, "prediction"],
        after=after.loc[changed, "prediction"],
        change=np.where(right[changed], "gained", "lost"),
    )
    return found[FLIPS].reset_index(drop=True)
