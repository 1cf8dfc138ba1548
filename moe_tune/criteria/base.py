"""The contract of a criterion: how long each expert is to stay, by what was seen on questions it may be chosen on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.routing import Scope

Scores = NDArray[np.float64]
Need = Literal["routing", "norms"]
"""What a criterion reads: where tokens went, and how large what the experts said was."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertEvidence:
    """What was seen of every expert.

    Args:
        layers: The layers with experts, ascending.
        num_experts: Experts of each.
        scope: Which tokens counted.
        split: Whose questions were asked.
        questions: How many.
        frame: A row per layer and expert, in order, with the routing metrics' columns and ``norm_sum``, the sum of
            ``w |f(h)|`` over an expert's tokens, where that was asked for; ``None`` where nothing was.
    """

    layers: tuple[int, ...]
    num_experts: int
    scope: Scope = "all"
    split: str = "train"
    questions: int = 0
    frame: pd.DataFrame | None = None

    def column(self, name: str) -> Scores:
        """Return a column of the frame, (L, E)."""
        assert self.frame is not None
        values_LE: Scores = self.frame[name].to_numpy(dtype=np.float64).reshape(len(self.layers), self.num_experts)
        return values_LE

    def mean(self, total: str, count: str) -> Scores:
        """Return one column over another, (L, E); -inf, which goes first, where the latter is 0."""
        total_LE, count_LE = self.column(total), self.column(count)
        mean_LE: Scores = np.divide(total_LE, count_LE, out=np.full_like(total_LE, -np.inf), where=count_LE > 0)
        return mean_LE


class Criterion(ABC):
    """Says which experts are to stay the longest.

    Attributes:
        needs: What it reads of questions; empty where it asks none.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"routing"})

    @abstractmethod
    def scores(self, evidence: ExpertEvidence) -> Scores:
        """Return a score of each expert, (L, E): the lowest of a layer go first, those of +inf never.

        Args:
            evidence: What was seen of the experts.
        """

    def seen(self) -> frozenset[str]:
        """Return the splits that what it reads beside the evidence was measured on, as far as that is known."""
        return frozenset()

    def note(self, evidence: ExpertEvidence) -> str:
        """Return what belongs beside a choice by it, as a sentence; by default nothing."""
        return ""


def by_layer(table: pd.DataFrame, column: str, evidence: ExpertEvidence, file: str) -> Scores:
    """Return a column of a table with a row per layer and expert, (L, E).

    Raises:
        DataError: A column is missing, an expert is missing or there twice, or a value is not finite.
    """
    hint = f"a row per layer and expert, with the columns layer, expert and {column}."
    if lacking := {"layer", "expert", column} - {*table.columns}:
        raise DataError(
            f"expected columns layer, expert and {column} but {sorted(lacking)} lack ({file}). Hint: {hint}"
        )
    place = pd.MultiIndex.from_product([evidence.layers, range(evidence.num_experts)], names=["layer", "expert"])
    indexed = table.set_index(["layer", "expert"])[column]
    if indexed.index.has_duplicates:
        twice = tuple(map(int, indexed.index[indexed.index.duplicated()][0]))
        raise DataError(f"expected each expert once but got (layer, expert) {twice} more often ({file}). Hint: {hint}")
    values = indexed.reindex(place)
    if not np.isfinite(values.to_numpy(dtype=np.float64)).all():
        first = tuple(map(int, values.index[~np.isfinite(values.to_numpy(dtype=np.float64))][0]))
        raise DataError(f"expected a finite {column} of every expert but none of (layer, expert) {first} ({file}).")
    scores_LE: Scores = values.to_numpy(dtype=np.float64).reshape(len(evidence.layers), evidence.num_experts)
    return scores_LE
