"""The data frames of layers: what is known of each, the chosen weights by rank, and the experts that fire together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_tune.analysis.expert_frames import subject_totals
from moe_tune.stats.accuracy_estimates import raw_accuracy
from moe_tune.stats.load import effective_experts, load_gini, load_max_over_mean, load_variation
from moe_tune.stats.never_activated import never_bound
from moe_tune.stats.permutation_null import PermutationNull
from moe_tune.stats.ratios import FEWEST, Tables, ratio
from moe_tune.stats.specialisation import subject_information

PAIRS = 50
"""Pairs kept per layer."""


def layer_frame(tables: Tables, null: PermutationNull, layers: Sequence[int]) -> pd.DataFrame:
    """Return what is known of each layer: activation, load, entropy, margins, drift, and the spread of accuracy.

    ``accuracy_spread`` and its null leave out what the permutation null does, repeats of a question within a subject.
    """
    count_LE, tokens_L = tables["count"], tables["tokens"]
    _, asked_S = subject_totals(tables)
    questions, (depth, experts) = int(asked_S.sum()), count_LE.shape
    activated_L = np.sum(count_LE > 0, axis=1)
    accuracy_LE = raw_accuracy(tables["correct"], tables["questions"]).value
    often_LE = tables["questions"] >= FEWEST
    any_L = often_LE.any(axis=1)
    lowest_L = np.where(often_LE, accuracy_LE, np.inf).min(axis=1)
    highest_L = np.where(often_LE, accuracy_LE, -np.inf).max(axis=1)
    # Without a single draw known (too few questions in a layer) the quantiles are NaN as they should be.
    median_L, high_L = np.quantile(null.spread_null_DL, (0.5, 0.95), axis=0)
    frame = pd.DataFrame(
        {
            "layer": np.asarray(layers),
            "tokens": tokens_L,
            "questions": questions,
            "activated": activated_L,
            "activated_tenth": np.sum(count_LE * 10 * experts >= np.maximum(count_LE.sum(1), 1)[:, None], axis=1),
            "never_share": 1 - activated_L / experts,
            "never_bound_one": never_bound(questions),
            "never_bound_all": never_bound(questions, depth * experts),
            "effective_experts": effective_experts(count_LE, tokens_L, questions),
            "load_max_over_mean": load_max_over_mean(count_LE),
            "load_cv": load_variation(count_LE),
            "load_gini": load_gini(count_LE),
        }
    )
    for name, most in (("entropy_all", np.array(np.log(experts))), ("entropy_topk", tables["entropy_topk_most"])):
        frame[f"{name}_mean"] = tables[f"{name}_mean"]
        frame[f"{name}_std"] = tables[f"{name}_std"]
        frame[f"{name}_share"] = ratio(tables[f"{name}_mean"], most)
    for name in ("topk_mass_mean", "margin_mean", "tie_rate", "near_tie_rate", "base_overlap", "base_kl"):
        frame[name] = tables[name]
    return frame.assign(
        accuracy_lowest=np.where(any_L, lowest_L, np.nan),
        accuracy_highest=np.where(any_L, highest_L, np.nan),
        accuracy_spread=null.spread_L,
        spread_null_median=median_L,
        spread_null_high=high_L,
        spread_p=null.spread_p_L,
        spread_p_holm=null.spread_p_holm_L(),
        subject_information=subject_information(tables["questions_by_subject"], asked_S),
    )


def weight_frame(tables: Tables, layers: Sequence[int]) -> pd.DataFrame:
    """Return the mean weight of the 1st to Kth chosen expert of each layer, and its share of the sum of these means.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (the table of sorted weights)
    """
    weight_LK = tables["sorted_weight_mean"]
    depth, slots = weight_LK.shape
    return pd.DataFrame(
        {
            "layer": np.repeat(np.asarray(layers), slots),
            "rank": np.tile(np.arange(1, slots + 1), depth),
            "weight_mean": weight_LK.reshape(-1),
            "share_mean": ratio(weight_LK, weight_LK.sum(axis=1, keepdims=True)).reshape(-1),
        }
    )


def co_activation_frame(tables: Tables, layers: Sequence[int]) -> pd.DataFrame:
    """Return the pairs of experts that fire together, per layer the 50 of largest count times lift.

    Formula: ``conditional = P(other | expert)``, ``lift = P(both) / (P(expert) P(other))``, shares of tokens. The
    expert is the one of the pair with the lower index.

    Reference:
        This project's; lift as in Brin et al. 1997, https://doi.org/10.1145/253260.253325
    """
    first, second = np.triu_indices(tables["count"].shape[1], k=1)
    frames = []
    for layer, both_EE, count_E, tokens in zip(
        layers, tables["co_count"], tables["count"], tables["tokens"], strict=True
    ):
        both = both_EE[first, second]
        frame = pd.DataFrame(
            {
                "layer": layer,
                "expert": first,
                "other": second,
                "count": both,
                "conditional": ratio(both, count_E[first]),
                "lift": ratio(both * float(tokens), count_E[first] * count_E[second].astype(np.float64)),
            }
        )
        order = (frame["count"] * frame["lift"]).where(frame["count"] > 0).dropna()
        frames.append(frame.loc[order.sort_values(ascending=False, kind="stable").index[:PAIRS]])
    return pd.concat(frames, ignore_index=True)
