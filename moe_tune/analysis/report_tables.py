"""The tables of the report, in the page, in Markdown and in LaTeX, each at one setting."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from moe_tune.analysis.findings import Analysis
from moe_tune.reports.table import Cell, Column, Table, intervals, numbers, shares, words
from moe_tune.stats.ratios import FEWEST

MEASURED = "measured under changed inputs"
PAIRS_PER_LAYER = 10
EACH = 3
"""Experts ranked at each end of a layer."""
EVERYBODY = 0.95
"""An expert that this share of the questions chose, or more, serves everybody: its accuracy is that of all."""
LEAST_SPREAD = 0.001
"""Layers whose experts differ by less in shrunk accuracy have no order: a tenth of a point, as the table prints it."""


def sample_line(part: Analysis) -> str:
    """Return the scope, the shots and how much was counted at one setting."""
    first = part.layers.iloc[0]
    return f"Scope: {part.settings[0].label}; n = {first['questions']:,} questions, {first['tokens']:,} tokens."


def _activated(part: Analysis) -> Table:
    """Return how many experts of each layer fire, how far "never" reaches, and how evenly the load lies."""
    layers = part.layers
    experts = int(part.experts["expert"].max()) + 1
    return Table(
        [
            numbers("layer", layers["layer"]),
            numbers("activated", layers["activated"]),
            numbers("with at least a tenth of an even share", layers["activated_tenth"]),
            shares("never fired, %", layers["never_share"]),
            shares("bound, one expert, %", layers["never_bound_one"], ".2g"),
            shares("bound, all experts, %", layers["never_bound_all"], ".2g"),
            numbers("effective experts", layers["effective_experts"], ",.1f"),
            numbers("load, max / mean", layers["load_max_over_mean"], ",.2f"),
            numbers("load, coefficient of variation", layers["load_cv"], ",.2f"),
            numbers("load, Gini", layers["load_gini"], ",.3f"),
        ],
        f"{sample_line(part)} Activated: chosen by at least one counted token, of {experts} experts. The bounds (95 %, "
        f"exact binomial, unit: question) say what share of questions an expert that never fired may still serve: one "
        f"such expert, and all experts of all layers at once. Effective experts: exp of the entropy of usage.",
    )


def _entropy(part: Analysis) -> Table:
    """Return mean and standard deviation of the gate's entropy by layer, over all experts and over the chosen ones."""
    layers = part.layers
    return Table(
        [
            numbers("layer", layers["layer"]),
            numbers("all experts, mean", layers["entropy_all_mean"], ",.3f"),
            numbers("sd", layers["entropy_all_std"], ",.3f"),
            shares("share of maximum, %", layers["entropy_all_share"]),
            numbers("chosen, mean", layers["entropy_topk_mean"], ",.3f"),
            numbers("sd ", layers["entropy_topk_std"], ",.3f"),
            shares("share of maximum, % ", layers["entropy_topk_share"]),
            numbers("mass of the chosen", layers["topk_mass_mean"], ",.3f"),
            numbers("margin", layers["margin_mean"], ",.4f"),
            shares("ties, %", layers["tie_rate"], ".2g"),
            shares("near ties, %", layers["near_tie_rate"], ".2g"),
            shares("overlap, %", layers["base_overlap"]),
            numbers("KL, nats", layers["base_kl"], ",.4f"),
        ],
        f"{sample_line(part)} Entropy in nats of the router's probabilities, per token: over all experts, and over the "
        f"chosen ones with their probabilities divided by their sum. Share: of the maximum. sd: over tokens. Margin: "
        f"gap between the last chosen expert and the next. Overlap and KL compare with the pretrained router.",
    )


def _weights(part: Analysis) -> Table:
    """Return the mean weight of the first to the last chosen expert, by layer."""
    wide = part.weights.pivot(index="layer", columns="rank", values="weight_mean")
    ranks = [numbers(f"rank {rank}", wide[rank], ",.4f") for rank in wide.columns]
    return Table(
        [numbers("layer", wide.index.to_series()), *ranks, numbers("sum", wide.sum(axis=1), ",.4f")],
        f"{sample_line(part)} Mean weight of a token's chosen experts, sorted from the largest.",
    )


def _spread(part: Analysis) -> Table:
    """Return how far accuracy differs between the experts of a layer, and how far it would by chance alone."""
    layers = part.layers
    return Table(
        [
            numbers("layer", layers["layer"]),
            shares("lowest, %", layers["accuracy_lowest"]),
            shares("highest, %", layers["accuracy_highest"]),
            shares("spread, points", layers["accuracy_spread"]),
            shares("by chance, median", layers["spread_null_median"]),
            shares("by chance, 95th percentile", layers["spread_null_high"]),
            numbers("p", layers["spread_p"], ".2g"),
            numbers("p after Holm", layers["spread_p_holm"], ".2g"),
            numbers("subject information, nats", layers["subject_information"], ",.3f"),
        ],
        f"{sample_line(part)} Spread: highest less lowest raw accuracy among experts with at least {FEWEST} "
        f"questions. By chance: the same under permutation of correct answers within subject (median and 95th "
        f"percentile). p after Holm: over layers. Subject information: mutual information of expert and subject, "
        f"corrected for bias.",
    )


def _ranked(part: Analysis) -> Table:
    """Return the experts of highest and lowest accuracy of each layer, with counts and intervals."""
    enough, everybody, level = rankable(part)
    ordered = enough.sort_values(["layer", "shrunk", "expert"], ascending=[True, False, True])
    place = ordered.groupby("layer").cumcount()
    size = ordered.groupby("layer")["expert"].transform("size")
    best = place < (size / 2).clip(upper=EACH)
    worst = (size - 1 - place < EACH) & ~best
    end = pd.Series("", index=ordered.index).mask(best, "best").mask(worst, "worst")
    rows, end = ordered[best | worst], end[best | worst]
    subjects = rows["top_subject"].astype(str).str.replace("_", " ")
    return Table(
        [
            numbers("layer", rows["layer"]),
            words("end", end),
            numbers("expert", rows["expert"]),
            numbers("questions", rows["questions"]),
            shares("raw accuracy, %", rows["accuracy"]),
            intervals("95 % interval", rows["accuracy_low"], rows["accuracy_high"]),
            shares("shrunk, %", rows["shrunk"]),
            intervals("95 % interval ", rows["shrunk_low"], rows["shrunk_high"]),
            numbers("odds ratio", rows["odds_ratio"], ",.2f"),
            intervals("95 % interval  ", rows["odds_low"], rows["odds_high"], ".2f", 1),
            numbers("p adjusted", rows["p_adjusted"], ".2g", marks=rows["flagged"]),
            words("commonest subject by lift", subjects),
        ],
        f"{sample_line(part)} Best and worst {EACH} of each layer by shrunk accuracy (empirical Bayes), among experts "
        f"with at least {FEWEST} questions. Left out: {everybody} that at least {100 * EVERYBODY:.0f} % of the "
        f"questions chose, and layers whose other experts differ by less than {100 * LEAST_SPREAD:.1f} points "
        f"({', '.join(map(str, level)) or 'none'}). Intervals: 95 %; raw: Wilson; odds ratio: Mantel-Haenszel by "
        f"subject, fired against not. p adjusted: max-T permutation within subject, over all experts of all layers; a "
        f"star marks those below 0.05. Picked from many: the ends of a ranking lie further apart than the truth.",
    )


def rankable(part: Analysis) -> tuple[pd.DataFrame, int, list[int]]:
    """Return the experts that can be ranked, how many serve everybody, and the layers left without an order."""
    experts = part.experts[part.experts["questions"] >= FEWEST]
    asked = experts["layer"].map(part.layers.set_index("layer")["questions"])
    everybody = experts["questions"] >= EVERYBODY * asked
    some = experts[~everybody]
    shrunk = some.groupby("layer")["shrunk"]
    enough = some[shrunk.transform("max") - shrunk.transform("min") >= LEAST_SPREAD]
    return enough, int(everybody.sum()), sorted(set(part.layers["layer"]) - set(enough["layer"]))


def _subjects(part: Analysis) -> Table:
    """Return one row per subject: its accuracy, and where its routing differs most from the rest."""
    frame = part.subjects
    by = frame.groupby("subject", sort=True)
    rows, means = by.first(), by[["activated", "divergence"]].mean()
    most = frame.loc[by["divergence"].idxmax()].set_index("subject")
    return Table(
        [
            words("subject", rows.index.to_series().str.replace("_", " ")),
            numbers("questions", rows["questions"]),
            shares("accuracy, %", rows["accuracy"]),
            intervals("95 % interval", rows["accuracy_low"], rows["accuracy_high"]),
            numbers("activated per layer", means["activated"], ",.1f"),
            numbers("divergence", means["divergence"], ",.3f"),
            numbers("most divergent layer", most["layer"]),
            numbers("its top expert", most["top_expert"]),
            shares("share of the subject's tokens, %", most["top_expert_share"]),
        ],
        f"{sample_line(part)} Accuracy with 95 % Wilson interval. Activated and divergence (Jensen-Shannon, between "
        f"the subject's usage and the layer's, nats): means over layers; the last columns show the layer where it is "
        f"largest.",
    )


def _pairs(part: Analysis) -> Table:
    """Return the pairs of experts that tokens choose together most beyond chance, by layer."""
    rows = part.co_activation.groupby("layer", sort=True).head(PAIRS_PER_LAYER)
    return Table(
        [
            numbers("layer", rows["layer"]),
            numbers("expert", rows["expert"]),
            numbers("other", rows["other"]),
            numbers("tokens", rows["count"]),
            shares("P(other | expert), %", rows["conditional"]),
            numbers("lift", rows["lift"], ",.2f"),
        ],
        f"{sample_line(part)} The first {PAIRS_PER_LAYER} pairs of each layer by lift-weighted count, more in "
        f"co_activation.csv. Lift: how much oftener than if choices were independent.",
    )


def _sensitivity(part: Analysis) -> Table:
    """Return the share of chosen experts that change, by kind of change and layer, and of letters that flip."""
    rows = part.sensitivity.sort_values(["change", "layer"], kind="stable")
    letters = rows["layer"] < 0
    where = rows["layer"].astype(int).astype(str).mask(letters, "letter")
    return Table(
        [
            words("change", rows["change"]),
            Column("layer", [Cell(text, value) for text, value in zip(where, rows["layer"], strict=True)]),
            numbers("questions", rows["questions"]),
            shares("changed or flipped, %", rows["changed_share"].where(~letters, rows["flipped_share"])),
            intervals(
                "95 % interval",
                rows["changed_low"].where(~letters, rows["flipped_low"]),
                rows["changed_high"].where(~letters, rows["flipped_high"]),
            ),
            shares("any changed, %", rows["any_changed_share"]),
        ],
        f"Scope: {part.settings[0].label}. Mean share of a question's chosen experts that change with the input, and "
        f"share of questions where any does; in the rows named letter the share of answers that flip. Intervals: 95 %.",
        evidence=MEASURED,
    )


def _committees(part: Analysis) -> Table:
    """Return the committee of each layer beside what chance gives, and how alike the subjects' experts are."""
    rows = part.committees
    first = rows.iloc[0]
    verdicts = ["committee" if claimed else "none" for claimed in rows["claimed"]]
    return Table(
        [
            numbers("layer", rows["layer"]),
            words("verdict", verdicts, ["good" if one == "committee" else "muted" for one in verdicts]),
            words("members", rows["members"]),
            shares("coverage, %", rows["coverage"]),
            shares("by chance, 95th percentile", rows["coverage_null_high"]),
            numbers("p", rows["p"], ".2g"),
            numbers("p after Holm", rows["p_holm"], ".2g"),
            shares("overlap of subjects, %", rows["overlap"]),
            intervals("if subjects did not differ", rows["overlap_alike_low"], rows["overlap_alike_high"]),
        ],
        f"Scope: {part.settings[0].label}; n = {first['questions']:,} questions (the first of each text in a "
        f"subject) of {first['subjects']} subjects. Members: experts on the first Pareto front of presence, mean "
        f"rank and spread of ranks over subjects that are among the top K by weight in at least 80 % of them. "
        f"Coverage: share of a subject's weight on them, mean over subjects. By chance: the same where each "
        f"subject's experts are named anew; p after Holm: over layers; a committee below 0.05. Overlap: mean Jaccard "
        f"index of two subjects' top-K sets, and its 95 % range where questions are dealt out to the subjects anew.",
    )


def _regret(part: Analysis) -> Table:
    """Return how routes sampled in the last layer answer, against the route taken, by confidence."""
    rows = part.regret
    names = rows["confidence"].map(lambda name: "all questions" if name == "all" else f"fifth {name} of 5")
    tones = {"regret": "bad", "no regret": "good", "inconclusive": "open", "not tested": "muted"}
    return Table(
        [
            words("confidence", names),
            numbers("questions", rows["questions"]),
            shares("routes better, %", rows["better"]),
            intervals("95 % interval", rows["low"], rows["high"]),
            shares("with random targets, %", rows["better_null"]),
            numbers("p", rows["p"], ".2g"),
            words("verdict", rows["verdict"], [tones[one] for one in rows["verdict"]]),
            numbers("median gap, nats", rows["gap"], "+,.3f"),
            intervals("95 % interval ", rows["gap_low"], rows["gap_high"], "+.3f", 1),
            numbers("rank correlation", rows["rank"], "+,.3f"),
            intervals("95 % interval  ", rows["rank_low"], rows["rank_high"], "+.3f", 1),
            numbers("best of the sample", rows["best"], "+,.3f"),
            numbers("its null", rows["best_null"], "+,.3f"),
        ],
        f"Scope: {part.settings[0].label}, layer {rows['layer'].iloc[0]}; 32 routes per question, drawn by Gumbel "
        f"noise from the router's logits and answered. Better: share whose correct choice is likelier than by the "
        f"router's own route, ties half. Random targets: the same with the correct choices permuted among questions "
        f"of like confidence. Regret: the interval lies above one half and p is below 0.05. Gap: median of the "
        f"routes less the router's own. Rank correlation: of a route's answer and score. Best of the sample: picked "
        f"by its answer, so it shows no headroom; its null deals the answers out anew. Fifths: by the router's "
        f"confidence, the least confident first; shown and not tested. Intervals: 95 %, over clusters of equal texts.",
        evidence="interventional",
    )


TABLES: dict[str, tuple[str, Callable[[Analysis], Table], str]] = {
    "activated": ("Activated experts per layer", _activated, "layers"),
    "entropy": ("Entropy, margins and drift per layer", _entropy, "layers"),
    "weights": ("Mean sorted weights per layer", _weights, "weights"),
    "spread": ("Accuracy spread per layer", _spread, "layers"),
    "ranked": ("Best and worst experts per layer", _ranked, "experts"),
    "subjects": ("Subjects", _subjects, "subjects"),
    "pairs": ("Experts chosen together", _pairs, "co_activation"),
    "sensitivity": ("Under small changes of the input", _sensitivity, "sensitivity"),
    "committees": ("Committees", _committees, "committees"),
    "regret": ("Route regret", _regret, "regret"),
}
"""Tables by the name the page asks for them: heading, what makes each, and the data frame it cannot do without."""


def tables_at(part: Analysis) -> dict[str, Table]:
    """Return every table that has data at one setting, by name."""
    made = {}
    for name, (title, make, needs) in TABLES.items():
        if not getattr(part, needs).empty:
            made[name] = replace(make(part), title=f"{title}: {part.settings[0].label}")
    return made
