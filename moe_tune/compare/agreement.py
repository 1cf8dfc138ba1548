"""How far a run and a log of another program gave the same letters to the same questions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moe_tune.compare.outside import SPLIT
from moe_tune.compare.runs import Run

DIFFERING = ("id", "subject", "gold", "ours", "theirs", "our_margin", "their_margin")


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """The letters of a run beside those of a log.

    Attributes:
        questions: Questions of the run.
        shared: Those that the log holds too: the same content and the same right answer.
        equal: Those of them that both gave the same letter.
        differing: The shared questions with another letter, one row each; letters count from 0, a margin is the
            log-probability of the letter less that of the runner-up, NaN where it is not told.
    """

    questions: int
    shared: int
    equal: int
    differing: pd.DataFrame

    @property
    def missing(self) -> int:
        """Questions that the log lacks."""
        return self.questions - self.shared


def letters_beside(run: Run, split: str, log: Run) -> Agreement:
    """Return how far the letters of a run equal those of a log, which may hold more questions.

    Questions are the same by id, or else by content, and by right answer; copies go together in the order of letters.

    Args:
        run: The run.
        split: Its split.
        log: Lm-eval's samples, or a table that tells letters.
    """
    left, right = (_with_margin(table) for table in (run.questions[split], log.questions[SPLIT]))
    key = "key" if set(left["key"]) <= set(right["key"]) else "content_hash"
    on = [key, "gold", "copy"]
    left, right = (_with_copies(table, key) for table in (left, right))
    both = left.merge(right[[*on, "prediction", "margin"]], on=on, suffixes=("_ours", "_theirs"))
    names = {"prediction_ours": "ours", "prediction_theirs": "theirs"}
    names |= {"margin_ours": "our_margin", "margin_theirs": "their_margin"}
    both = both.rename(columns=names).sort_values("id", ignore_index=True)
    apart = both.loc[both["ours"] != both["theirs"], list(DIFFERING)].reset_index(drop=True)
    return Agreement(len(left), len(both), len(both) - len(apart), apart)


def _with_copies(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return a table whose copies of a question are numbered, in the order of their letters."""
    table = table.sort_values(["prediction", "id"], ignore_index=True)
    return table.assign(copy=table.groupby([key, "gold"]).cumcount())


def _with_margin(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the margin of each letter, and the question's id without the number of a copy."""
    table = table.assign(key=table["id"].str.partition("-")[0])
    if "log_probs" not in table:
        return table.assign(margin=np.nan)
    best = [sorted(row, reverse=True)[:2] for row in table["log_probs"]]
    return table.assign(margin=[first - second for first, second in best])
