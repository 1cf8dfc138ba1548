"""Effect: the experts go first without which the answers are best."""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.pruning.criteria.base import Criterion, ExpertEvidence, Need, Scores, by_layer


class MaskingEffect(Criterion):
    """Lets the experts go whose masking did least harm when it was tried.

    Formula: ``s_i = -d_i``, ``d_i`` the effect of masking expert i alone: what a figure for which more is better (the
    correct letter's log-probability) is without it minus what it is with it. Single effects do not add up: what a set
    does is measured after the choice.

    Args:
        file: Parquet with a row per layer and expert, and the columns layer, expert and ``column``.
        column: The effect's column.

    Raises:
        DataError: There is no such file, or an expert has no effect in it, or several.

    Reference:
        This project's interventions, ``ablate``.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, file: str, column: str = "effect") -> None:
        self.file, self.effect = file, column

    def scores(self, evidence: ExpertEvidence) -> Scores:
        return -by_layer(read_table(self.file), self.effect, evidence, self.file)

    def note(self, evidence: ExpertEvidence) -> str:
        table = read_table(self.file)
        known = sorted(map(str, table["scope"].unique())) if "scope" in table.columns else []
        return f"The effects were measured at scope {', '.join(known)}." if known else ""


def read_table(file: str) -> pd.DataFrame:
    """Return a parquet table.

    Raises:
        DataError: There is none.
    """
    if not Path(file).is_file():
        raise DataError(f"expected a parquet file but got {file!r}, which is none. Hint: python -m moe_tune ablate.")
    try:
        return pd.read_parquet(file)
    except (OSError, ValueError) as fault:
        raise DataError(f"expected a parquet file but got: {' '.join(str(fault).split())[:200]} ({file}).") from fault
