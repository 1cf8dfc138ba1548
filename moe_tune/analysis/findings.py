"""What an analysis found: its tables, checked for their columns, and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from moe_tune.base.errors import DataError

COLUMNS: dict[str, str] = {
    "experts": "layer expert count tokens usage weight_mass questions correct accuracy accuracy_low accuracy_high "
    "shrunk shrunk_low shrunk_high mass_accuracy odds_ratio odds_low odds_high risk_difference subject_gap p_null "
    "p_adjusted flagged top_subject top_subject_lift evidence",
    "layers": "layer tokens questions activated activated_tenth never_share never_bound_one never_bound_all "
    "effective_experts load_max_over_mean load_cv load_gini entropy_all_mean entropy_all_std entropy_all_share "
    "entropy_topk_mean entropy_topk_std entropy_topk_share topk_mass_mean margin_mean tie_rate near_tie_rate "
    "base_overlap base_kl accuracy_lowest accuracy_highest accuracy_spread spread_null_median spread_null_high "
    "spread_p spread_p_holm subject_information",
    "weights": "layer rank weight_mean share_mean",
    "subjects": "subject layer questions correct accuracy accuracy_low accuracy_high activated top_expert "
    "top_expert_share divergence",
    "co_activation": "layer expert other count conditional lift",
    "sensitivity": "change layer questions changed_share changed_low changed_high any_changed_share flipped_share "
    "flipped_low flipped_high",
}
"""Columns each table has after the leading ``shots`` and ``scope``."""

SCOPE_LABELS = {
    "answer": "answer token",
    "all": "all tokens",
    "instruction": "instruction",
    "examples": "examples",
    "stem": "question stem",
    "choices": "choices",
}
TONES = {"holds": "good", "does not hold": "bad", "inconclusive": "open"}
"""The tone of each verdict."""


@dataclass(frozen=True, slots=True)
class AnalysisSetting:
    """Which tokens were counted, and how many examples stood in the prompt.

    Attributes:
        shots: Examples before the question, 0 or more.
        scope: A scope or a prompt part.
    """

    shots: int
    scope: str

    @property
    def key(self) -> str:
        """Its name in the report's data, such as ``5|answer``."""
        return f"{self.shots}|{self.scope}"

    @property
    def label(self) -> str:
        """Its name for readers, such as ``answer token, 5-shot``."""
        return f"{SCOPE_LABELS.get(self.scope, self.scope)}, {self.shots}-shot"


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """Everything that the files of an analysis are made of.

    Attributes:
        title: Heading of the report.
        lead: What was analysed, one sentence.
        about: Names and values: model, revision, head, split, protocol, questions, seed, date, seconds, peak memory,
            versions (a mapping), and ``accuracy``: a mapping from the number of shots to a text with its interval.
        experts: One row per setting, layer and expert.
        layers: One row per setting and layer; its settings are those of the analysis, in this order.
        weights: One row per setting, layer and rank among the chosen experts.
        subjects: One row per setting, subject and layer.
        co_activation: Pairs of experts chosen together; settings without pairs may be missing.
        claims: One entry per claim and setting: claim, scope, shots, definition, ours, quoted, verdict.
        notes: Sentences for the method section.
        sensitivity: Share of chosen experts that change with small changes of the input; may be empty.

    Raises:
        DataError: A table lacks one of its columns.
    """

    title: str
    lead: str
    about: Mapping[str, Any]
    experts: pd.DataFrame
    layers: pd.DataFrame
    weights: pd.DataFrame
    subjects: pd.DataFrame
    co_activation: pd.DataFrame
    claims: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    sensitivity: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        for name, frame in self.tables().items():
            lacking = [column for column in columns_of(name) if column not in frame]
            if lacking and not frame.empty:
                raise DataError(
                    f"expected the columns {', '.join(columns_of(name))} but got none named {', '.join(lacking)} "
                    f"({name} of an analysis). Hint: fill a column that does not apply with missing values."
                )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def settings(self) -> list[AnalysisSetting]:
        """The settings analysed, in the order of the layers table."""
        pairs = self.layers[["shots", "scope"]].drop_duplicates()
        return [AnalysisSetting(int(shots), str(scope)) for shots, scope in pairs.itertuples(index=False)]

    def at(self, setting: AnalysisSetting) -> "Analysis":
        """Return the analysis restricted to one setting."""
        rows: dict[str, Any] = {
            name: frame[(frame["shots"] == setting.shots) & (frame["scope"] == setting.scope)].reset_index(drop=True)
            for name, frame in self.tables().items()
            if not frame.empty
        }
        claims = [claim for claim in self.claims if (claim["shots"], claim["scope"]) == (setting.shots, setting.scope)]
        return replace(self, **rows, claims=claims)


def columns_of(table: str) -> list[str]:
    """Return the columns every row of a table has."""
    return ["shots", "scope", *COLUMNS[table].split()]
