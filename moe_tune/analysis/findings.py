"""What an analysis found: its tables and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

TABLES = ("experts", "layers", "weights", "subjects", "co_activation")
"""The tables that each pass gives; those of ``BESIDE`` are beside them."""
SENSITIVITY = (
    *("shots", "scope", "change", "layer", "questions", "changed_share", "changed_low", "changed_high"),
    *("any_changed_share", "flipped_share", "flipped_low", "flipped_high"),
)
"""Columns of the table of sensitivity, also where nothing was measured."""
COMMITTEES = (
    *("shots", "scope", "layer", "questions", "subjects", "members", "size", "coverage", "coverage_null_high"),
    *("p", "p_holm", "claimed", "overlap", "overlap_alike_low", "overlap_alike_high", "evidence"),
)
"""Columns of the table of committees, also where there are none."""
REGRET = (
    *("shots", "scope", "layer", "confidence", "questions", "better", "low", "high", "better_null", "p"),
    *("gap", "gap_low", "gap_high", "rank", "rank_low", "rank_high", "best", "best_null", "verdict", "evidence"),
)
"""Columns of the table of route regret, also where nothing was measured."""
BESIDE = {"sensitivity": SENSITIVITY, "committees": COMMITTEES, "regret": REGRET}
"""Tables that an analysis may be without, and their columns."""

SCOPE_LABELS = {
    "answer": "answer token",
    "all": "all tokens",
    "instruction": "instruction",
    "examples": "examples",
    "stem": "question stem",
    "choices": "choices",
}
TONES = {"holds": "good", "not monotone": "bad", "does not hold": "bad", "inconclusive": "open"}
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
        committees: One row per setting at the answer token and layer; may be empty.
        regret: Route regret in the last layer, of all questions and of each fifth by confidence; may be empty.
        pretrained: Mean entropies of the pretrained router by setting and layer, where a run kept them; may be empty.
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
    committees: pd.DataFrame = field(default_factory=pd.DataFrame)
    regret: pd.DataFrame = field(default_factory=pd.DataFrame)
    pretrained: pd.DataFrame = field(default_factory=pd.DataFrame)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in (*TABLES, *BESIDE)}

    @property
    def settings(self) -> list[AnalysisSetting]:
        """The settings analysed, in the order of the layers table."""
        pairs = self.layers[["shots", "scope"]].drop_duplicates()
        return [AnalysisSetting(int(shots), str(scope)) for shots, scope in pairs.itertuples(index=False)]

    def at(self, setting: AnalysisSetting) -> "Analysis":
        """Return the analysis restricted to one setting."""
        rows: dict[str, Any] = {
            name: frame[(frame["shots"] == setting.shots) & (frame["scope"] == setting.scope)].reset_index(drop=True)
            for name, frame in {**self.tables(), "pretrained": self.pretrained}.items()
            if not frame.empty
        }
        claims = [claim for claim in self.claims if (claim["shots"], claim["scope"]) == (setting.shots, setting.scope)]
        return replace(self, **rows, claims=claims)
