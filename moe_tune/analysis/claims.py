"""The four claims of Chernov 2025 about gates, held against the model analysed."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from moe_tune.analysis.frames import ScopeEvidence
from moe_tune.stats.ratios import ratio

Verdict = Literal["holds", "not monotone", "does not hold", "inconclusive"]

UNIFORM_FROM = 0.89
"""Share of the maximum from which a gate counts as near-uniform: the lowest the paper quotes, 1.85 of 2.079 nats."""

SOURCE = "quoted from Chernov 2025, arXiv 2502.17187, OLMoE-1B-7B on 14,042 MMLU test questions"


def claims(evidence: Mapping[str, ScopeEvidence], shots: int) -> list[dict[str, Any]]:
    """Return the paper's four claims under every scope, with the numbers of the model analysed beside the quoted ones.

    Returns:
        An entry per scope and claim: ``claim``; ``scope`` and ``shots``; ``definition``, what is counted and what makes
        it hold; ``ours``, with n and an interval or bound; ``quoted``, the paper's number, labelled so; ``verdict``.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """
    found: list[dict[str, Any]] = []
    for scope, known in evidence.items():
        for claim, definition, quoted, judge in _CLAIMS:
            ours, verdict = judge(known)
            about = {"claim": claim, "scope": scope, "shots": shots, "definition": definition}
            found.append(about | {"ours": ours, "quoted": f'"{quoted}" ({SOURCE})', "verdict": verdict})
    return found


def _most_never_fire(known: ScopeEvidence) -> tuple[str, Verdict]:
    layers = known.layers
    questions, bound = int(layers["questions"].iloc[0]), float(layers["never_bound_all"].iloc[0])
    share, total = float(layers["never_share"].mean()), known.num_experts * len(layers)
    ours = (
        f"{share:.1%} of {total:,} experts never fire in {questions:,} questions; an expert that never did so may "
        f"still fire in up to {bound:.2%} of questions (upper 95 % bound, all experts at once)"
    )
    if share <= 0.5:
        return ours, "does not hold"
    # Seen too little: an expert used as often as the mean expert could have been missed.
    return ours, "holds" if bound < known.top_k / known.num_experts else "inconclusive"


def _gate_is_near_uniform(known: ScopeEvidence) -> tuple[str, Verdict]:
    level = known.level
    share_L, low_L, high_L = (ratio(end_L, level.most_L) for end_L in (level.mean_L, level.low_L, level.high_L))
    if np.isnan(share_L).any():
        return "the top-k entropy is not defined here (one expert per token, or no tokens)", "inconclusive"
    lowest = int(share_L.argmin())
    ours = (
        f"{level.mean_L.min():.3f} to {level.mean_L.max():.3f} nats over {len(share_L)} layers; the lowest share of "
        f"the maximum is {share_L[lowest]:.1%} of {level.most_L[lowest]:.3f} nats, in layer "
        f"{known.layers['layer'].iloc[lowest]} (95 % interval "
    )
    count = f"n = {level.questions:,} questions in {level.clusters:,} clusters)"
    if np.isnan(low_L).any():
        return f"{ours}not defined: fewer than two independent questions; {count}", "inconclusive"
    ours += f"{low_L[lowest]:.1%} to {high_L[lowest]:.1%}, {count}"
    if (low_L >= UNIFORM_FROM).all():
        return ours, "holds"
    return ours, "does not hold" if (high_L < UNIFORM_FROM).any() else "inconclusive"


def _entropy_rises(known: ScopeEvidence) -> tuple[str, Verdict]:
    trend, level = known.trend, known.level
    if np.isnan(trend.low):
        return "the slope has no interval here (one layer, or fewer than two questions)", "inconclusive"
    ours = (
        f"slope {trend.slope:+.4f} nats per layer (95 % interval {trend.low:+.4f} to {trend.high:+.4f}, "
        f"n = {trend.questions:,} questions in {trend.clusters:,} clusters); rank correlation of the layer means with "
        f"depth {trend.spearman:+.2f}; {level.mean_L.min():.3f} to {level.mean_L.max():.3f} nats of at most "
        f"{level.most_L.max():.3f}"
    )
    if trend.low <= 0:
        return ours, "does not hold" if trend.high < 0 else "inconclusive"
    if not trend.falls:
        return ours, "holds"
    deepest = trend.falls[0]
    ours += (
        f"; but layer {deepest.later} lies {deepest.by:.4f} nats below layer {deepest.earlier} (surely at least "
        f"{deepest.least:.4f}, Holm over all pairs of layers), more than a tenth of the means' range of "
        f"{trend.range:.4f}; {len(trend.falls)} of {len(level.mean_L) * (len(level.mean_L) - 1) // 2} pairs fall so"
    )
    return ours, "not monotone"


def _experts_differ(known: ScopeEvidence) -> tuple[str, Verdict]:
    layers = known.layers
    tested = layers[layers["spread_p_holm"].notna()]
    questions = int(layers["questions"].iloc[0])
    if tested.empty:
        return f"no layer has two experts with 30 questions (n = {questions:,} questions)", "inconclusive"
    beyond = int((tested["spread_p_holm"] < 0.05).sum())
    first = tested.iloc[int(tested["spread_p"].to_numpy().argmin())]
    flagged = int(known.experts["flagged"].sum())
    ours = (
        f"spread beyond the permutation null in {beyond} of {len(tested)} layers; smallest p = "
        f"{first['spread_p_holm']:.2g} (permutation, Holm over layers) in layer {int(first['layer'])}: "
        f"{first['accuracy_highest']:.1%} against {first['accuracy_lowest']:.1%}, a spread of "
        f"{100 * first['accuracy_spread']:.1f} points where 95 % of the null's are below "
        f"{100 * first['spread_null_high']:.1f}; {flagged} of {len(known.experts):,} experts flagged "
        f"(n = {questions:,} questions, {known.draws:,} shuffles)"
    )
    if known.left_out:
        ours += f"; {known.left_out:,} repeats of a question of the same subject are left out of spreads and shuffles"
    return ours, "holds" if beyond else "inconclusive"


_CLAIMS = (
    (
        "most experts never fire",
        "share of experts, all layers together, that no token of the scope chose; holds above one half if even an "
        "expert of mean use could not have been missed",
        "over 60 % of the experts never fire",
        _most_never_fire,
    ),
    (
        "the gate is near-uniform",
        "mean over tokens of the entropy of the chosen experts' renormalised weights; holds if it is at least 0.89 of "
        "its maximum (ln K; with a varying number of experts, the mean ln of the number used) in every layer, surely "
        "so by the 95 % intervals",
        "1.85-2.05 of at most 2.079 nats",
        _gate_is_near_uniform,
    ),
    (
        "entropy rises from early to late layers",
        "mean over questions of the least-squares slope of top-k entropy over the layer index; holds if the 95 % "
        "interval lies above 0 and no later layer lies below an earlier one by more than a tenth of the range of the "
        "layers' means, surely so by paired intervals with Holm's correction over all pairs; not monotone if the slope "
        "is positive and one does",
        "grows with depth",
        _entropy_rises,
    ),
    (
        "experts of a layer differ in accuracy",
        "range of raw accuracy over a layer's experts with at least 30 questions, against correctness shuffled within "
        "subjects; holds if p < 0.05 after Holm's correction in at least one layer; an association, not an effect",
        "80 % against 34 %",
        _experts_differ,
    ),
)
