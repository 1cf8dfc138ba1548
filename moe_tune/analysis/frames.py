"""All data frames of one scope, and the trend of its entropy with depth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.analysis.expert_frames import expert_frame, subject_frame
from moe_tune.analysis.layer_frames import co_activation_frame, layer_frame, weight_frame
from moe_tune.base.errors import DataError
from moe_tune.stats.depth_trend import DepthTrend, depth_trend
from moe_tune.stats.entropy_level import EntropyLevel, entropy_level
from moe_tune.stats.permutation_null import permutation_null
from moe_tune.stats.ratios import Tables

DRAWS_PER_LAYER = 40
"""Shuffles that each layer asks for: with fewer than 20 the smallest p value after Holm's correction is above 0.05."""


@dataclass(frozen=True, slots=True)
class ScopeEvidence:
    """What the tables of one scope say; every statistic of an expert is associational.

    Args:
        experts: One row per layer and expert.
        layers: One row per layer.
        weights: One row per layer and rank among the chosen experts.
        subjects: One row per subject and layer.
        co_activation: Per layer the pairs of experts that fire together most.
        trend: The slope of the top-k entropy over layers.
        level: The mean top-k entropy of every layer against its maximum.
        top_k: Experts per token, K.
        num_experts: Experts per layer, E.
        draws: Shuffles of the permutation null.
        left_out: Questions that its null leaves out because they repeat another of their subject.
    """

    experts: pd.DataFrame
    layers: pd.DataFrame
    weights: pd.DataFrame
    subjects: pd.DataFrame
    co_activation: pd.DataFrame
    trend: DepthTrend
    level: EntropyLevel
    top_k: int
    num_experts: int
    draws: int
    left_out: int


def scope_evidence(
    tables: Tables,
    layers: Sequence[int],
    subjects: Sequence[str],
    cluster_Q: NDArray[np.intp] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> ScopeEvidence:
    """Return the data frames of one scope.

    Raises:
        DataError: No question was seen.
    """
    seen_Q = tables["seen_Q"].astype(bool)
    if not seen_Q.any():
        raise DataError(
            "expected routing tables of at least one question but got none (every entry of seen_Q is false). "
            "Hint: evaluate on a split with questions before the tables are read."
        )
    hit_QLE, correct_Q, subject_Q = (tables[name][seen_Q] for name in ("hit_QLE", "correct_Q", "subject_Q"))
    clusters = None if cluster_Q is None else cluster_Q[seen_Q]
    draws = max(draws, DRAWS_PER_LAYER * len(layers))
    null = permutation_null(hit_QLE, correct_Q.astype(bool), subject_Q, draws, seed, clusters)
    entropy_QL = tables["entropy_question_QL"][seen_Q].astype(np.float64)
    return ScopeEvidence(
        experts=expert_frame(tables, null, layers, subjects),
        layers=layer_frame(tables, null, layers),
        weights=weight_frame(tables, layers),
        subjects=subject_frame(tables, layers, subjects),
        co_activation=co_activation_frame(tables, layers),
        trend=depth_trend(entropy_QL, layers, clusters),
        level=entropy_level(entropy_QL, tables["tokens_question_QL"][seen_Q], tables["entropy_topk_most"], clusters),
        top_k=tables["sorted_weight_mean"].shape[-1],
        num_experts=tables["count"].shape[-1],
        draws=draws,
        left_out=null.left_out,
    )
