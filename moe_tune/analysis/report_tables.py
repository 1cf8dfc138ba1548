"""The tables of the report, in the page and in Markdown, each at one setting."""

import pandas as pd

from moe_tune.analysis.columns import (
    ReportColumn,
    ReportTable,
    counts,
    intervals,
    numbers,
    p_values,
    shares,
    small_shares,
    words,
)
from moe_tune.analysis.findings import Analysis

MEASURED = "measured under changed inputs"
RANKED_FROM = 30
"""Experts with fewer questions are not ranked."""
PAIRS_PER_LAYER = 10


def sample_line(part: Analysis) -> str:
    """Return the scope, the shots and how much was counted at one setting.

    Args:
        part: An analysis restricted to one setting.
    """
    first = part.layers.iloc[0]
    return f"Scope: {part.settings[0].label}; n = {first['questions']:,} questions, {first['tokens']:,} tokens."


def activated_table(part: Analysis) -> ReportTable:
    """Return how many experts of each layer fire, how far "never" reaches, and how evenly the load lies.

    Args:
        part: An analysis restricted to one setting.
    """
    layers = part.layers
    experts = int(part.experts["expert"].max()) + 1
    return ReportTable(
        f"{sample_line(part)} Activated: chosen by at least one counted token, of {experts} experts. The bounds (95 %, "
        f"exact binomial, unit: question) say what share of questions an expert that never fired may still serve: one "
        f"such expert, and all experts of all layers at once. Effective experts: exp of the entropy of usage.",
        [
            counts("layer", layers["layer"]),
            counts("activated", layers["activated"]),
            counts("with at least a tenth of an even share", layers["activated_tenth"]),
            shares("never fired, %", layers["never_share"]),
            small_shares("bound, one expert, %", layers["never_bound_one"]),
            small_shares("bound, all experts, %", layers["never_bound_all"]),
            numbers("effective experts", layers["effective_experts"], 1),
            numbers("load, max / mean", layers["load_max_over_mean"], 2),
            numbers("load, coefficient of variation", layers["load_cv"], 2),
            numbers("load, Gini", layers["load_gini"], 3),
        ],
    )


def entropy_table(part: Analysis) -> ReportTable:
    """Return mean and standard deviation of the gate's entropy by layer, over all experts and over the chosen ones.

    Args:
        part: An analysis restricted to one setting.
    """
    layers = part.layers
    return ReportTable(
        f"{sample_line(part)} Entropy in nats of the router's probabilities, per token: over all experts, and over the "
        f"chosen ones with their probabilities divided by their sum. Share: of the maximum. sd: over tokens. Margin: "
        f"gap between the last chosen expert and the next. Overlap and KL compare with the pretrained router.",
        [
            counts("layer", layers["layer"]),
            numbers("all experts, mean", layers["entropy_all_mean"], 3),
            numbers("sd", layers["entropy_all_std"], 3),
            shares("share of maximum, %", layers["entropy_all_share"]),
            numbers("chosen, mean", layers["entropy_topk_mean"], 3),
            numbers("sd ", layers["entropy_topk_std"], 3),
            shares("share of maximum, % ", layers["entropy_topk_share"]),
            numbers("mass of the chosen", layers["topk_mass_mean"], 3),
            numbers("margin", layers["margin_mean"], 4),
            small_shares("ties, %", layers["tie_rate"]),
            small_shares("near ties, %", layers["near_tie_rate"]),
            shares("overlap, %", layers["base_overlap"]),
            numbers("KL, nats", layers["base_kl"], 4),
        ],
    )


def weights_table(part: Analysis) -> ReportTable:
    """Return the mean weight of the first to the last chosen expert, by layer.

    Args:
        part: An analysis restricted to one setting.
    """
    wide = part.weights.pivot(index="layer", columns="rank", values="weight_mean")
    ranks = [numbers(f"rank {rank}", wide[rank], 4) for rank in wide.columns]
    return ReportTable(
        f"{sample_line(part)} Mean weight of a token's chosen experts, sorted from the largest.",
        [counts("layer", wide.index.to_series()), *ranks, numbers("sum", wide.sum(axis=1), 4)],
    )


def spread_table(part: Analysis) -> ReportTable:
    """Return how far accuracy differs between the experts of a layer, and how far it would by chance alone.

    Args:
        part: An analysis restricted to one setting.
    """
    layers = part.layers
    return ReportTable(
        f"{sample_line(part)} Spread: highest less lowest raw accuracy among experts with at least {RANKED_FROM} "
        f"questions. By chance: the same under permutation of correct answers within subject (median and 95th "
        f"percentile). p after Holm: over layers. Subject information: mutual information of expert and subject, "
        f"corrected for bias.",
        [
            counts("layer", layers["layer"]),
            shares("lowest, %", layers["accuracy_lowest"]),
            shares("highest, %", layers["accuracy_highest"]),
            shares("spread, points", layers["accuracy_spread"]),
            shares("by chance, median", layers["spread_null_median"]),
            shares("by chance, 95th percentile", layers["spread_null_high"]),
            p_values("p", layers["spread_p"]),
            p_values("p after Holm", layers["spread_p_holm"]),
            numbers("subject information, nats", layers["subject_information"], 3),
        ],
    )


def ranked_experts(part: Analysis, each: int = 3) -> ReportTable:
    """Return the experts of highest and lowest accuracy of each layer, with counts and intervals.

    Args:
        part: An analysis restricted to one setting.
        each: Experts at each end, per layer; at least 1.
    """
    enough = part.experts[part.experts["questions"] >= RANKED_FROM]
    ordered = enough.sort_values(["layer", "shrunk", "expert"], ascending=[True, False, True])
    place = ordered.groupby("layer").cumcount()
    size = ordered.groupby("layer")["expert"].transform("size")
    best = place < (size / 2).clip(upper=each)
    worst = (size - 1 - place < each) & ~best
    end = pd.Series("", index=ordered.index).mask(best, "best").mask(worst, "worst")
    rows, end = ordered[best | worst], end[best | worst]
    subjects = rows["top_subject"].astype(str).str.replace("_", " ")
    return ReportTable(
        f"{sample_line(part)} Best and worst {each} of each layer by shrunk accuracy (empirical Bayes), among experts "
        f"with at least {RANKED_FROM} questions. Intervals: 95 %; raw: Wilson; odds ratio: Mantel-Haenszel by subject, "
        f"fired against not. p adjusted: max-T permutation within subject, over all experts of all layers; a star "
        f"marks those below 0.05. Picked from many: the ends of a ranking lie further apart than the truth.",
        [
            counts("layer", rows["layer"]),
            words("end", end),
            counts("expert", rows["expert"]),
            counts("questions", rows["questions"]),
            shares("raw accuracy, %", rows["accuracy"]),
            intervals("95 % interval", rows["accuracy_low"], rows["accuracy_high"]),
            shares("shrunk, %", rows["shrunk"]),
            intervals("95 % interval ", rows["shrunk_low"], rows["shrunk_high"]),
            numbers("odds ratio", rows["odds_ratio"], 2),
            intervals("95 % interval  ", rows["odds_low"], rows["odds_high"], scale=1, digits=2),
            p_values("p adjusted", rows["p_adjusted"], rows["flagged"]),
            words("commonest subject by lift", subjects),
        ],
    )


def subject_table(part: Analysis) -> ReportTable:
    """Return one row per subject: its accuracy, and where its routing differs most from the rest.

    Args:
        part: An analysis restricted to one setting.
    """
    frame = part.subjects
    by = frame.groupby("subject", sort=True)
    rows, means = by.first(), by[["activated", "divergence"]].mean()
    most = frame.loc[by["divergence"].idxmax()].set_index("subject")
    return ReportTable(
        f"{sample_line(part)} Accuracy with 95 % Wilson interval. Activated and divergence (Jensen-Shannon, between "
        f"the subject's usage and the layer's, nats): means over layers; the last columns show the layer where it is "
        f"largest.",
        [
            words("subject", rows.index.to_series().str.replace("_", " ")),
            counts("questions", rows["questions"]),
            shares("accuracy, %", rows["accuracy"]),
            intervals("95 % interval", rows["accuracy_low"], rows["accuracy_high"]),
            numbers("activated per layer", means["activated"], 1),
            numbers("divergence", means["divergence"], 3),
            counts("most divergent layer", most["layer"]),
            counts("its top expert", most["top_expert"]),
            shares("share of the subject's tokens, %", most["top_expert_share"]),
        ],
    )


def pairs_table(part: Analysis) -> ReportTable:
    """Return the pairs of experts that tokens choose together most beyond chance, by layer.

    Args:
        part: An analysis restricted to one setting that has pairs.
    """
    rows = part.co_activation.groupby("layer", sort=True).head(PAIRS_PER_LAYER)
    return ReportTable(
        f"{sample_line(part)} The first {PAIRS_PER_LAYER} pairs of each layer by lift-weighted count, more in "
        f"co_activation.csv. Lift: how much oftener than if choices were independent.",
        [
            counts("layer", rows["layer"]),
            counts("expert", rows["expert"]),
            counts("other", rows["other"]),
            counts("tokens", rows["count"]),
            shares("P(other | expert), %", rows["conditional"]),
            numbers("lift", rows["lift"], 2),
        ],
    )


def sensitivity_table(part: Analysis) -> ReportTable:
    """Return the share of chosen experts that change, by kind of change and layer, and of letters that flip.

    Args:
        part: An analysis restricted to one setting that was measured under changed inputs.
    """
    rows = part.sensitivity.sort_values(["change", "layer"], kind="stable")
    letters = rows["layer"] < 0
    where = rows["layer"].astype(int).astype(str).mask(letters, "letter")
    return ReportTable(
        f"Scope: {part.settings[0].label}. Mean share of a question's chosen experts that change with the input, and "
        f"share of questions where any does; in the rows named letter the share of answers that flip. Intervals: 95 %.",
        [
            words("change", rows["change"]),
            ReportColumn("layer", where.tolist(), rows["layer"].astype(float).tolist()),
            counts("questions", rows["questions"]),
            shares("changed or flipped, %", rows["changed_share"].where(~letters, rows["flipped_share"])),
            intervals(
                "95 % interval",
                rows["changed_low"].where(~letters, rows["flipped_low"]),
                rows["changed_high"].where(~letters, rows["flipped_high"]),
            ),
            shares("any changed, %", rows["any_changed_share"]),
        ],
        MEASURED,
    )
