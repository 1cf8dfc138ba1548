"""Effect: the experts go first without which the answers are best."""

from pathlib import Path
from typing import ClassVar

import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.criteria.base import Criterion, ExpertEvidence, Need, Scores, by_layer


class MaskingEffect(Criterion):
    """Lets the experts go whose masking did least harm when it was tried.

    Formula: ``s_i = -d_i``, ``d_i`` the effect of masking expert i alone: what a figure for which more is better (the
    right letter's log-probability) is without it minus what it is with it. Single effects do not add up: what a set
    does is measured after the choice.

    Args:
        file: Parquet with a row per layer and expert, such as the ``experts.parquet`` of ``ablate``: the columns layer,
            expert and ``column``. Columns kind, scope and split are heeded where they are there.
        column: The effect's column; ``null`` takes ``effect``, or else ``log_prob``.

    Raises:
        DataError: There is no such file, an expert has no effect in it or several, or it is of another intervention.

    Reference:
        This project's interventions, ``ablate``.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, file: str, column: str | None = None) -> None:
        self.file, self.column = file, column

    def scores(self, evidence: ExpertEvidence) -> Scores:
        table = read_table(self.file)
        column = self.column or ("effect" if "effect" in table.columns else "log_prob")
        if others := sorted({*_values(table, "kind")} - {"mask"}):
            raise DataError(
                f"expected effects of masked experts but got those of {', '.join(others)} ({self.file}). "
                "Hint: python -m moe_tune ablate --intervention mask."
            )
        return -by_layer(table, column, evidence, self.file)

    def seen(self) -> frozenset[str]:
        return frozenset(_values(read_table(self.file), "split"))

    def note(self, evidence: ExpertEvidence) -> str:
        scopes, splits = (_values(read_table(self.file), name) for name in ("scope", "split"))
        said = f"The effects were measured at scope {', '.join(scopes)}. " if scopes else ""
        if splits:
            said += f"Their questions are those of {', '.join(splits)}. "
        else:
            said += "Their table does not say on which questions: those that judge here may be among them. "
        return said.rstrip()


def _values(table: pd.DataFrame, column: str) -> list[str]:
    return sorted(map(str, table[column].unique())) if column in table.columns else []


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
