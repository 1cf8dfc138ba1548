"""The sentences of a comparison: which arms helped, how that was found, and how far "never" reaches."""

from typing import Any

from moe_tune.compare.columns import points
from moe_tune.compare.comparison import Arm, Comparison
from moe_tune.reports.one_line import one_line
from moe_tune.reports.table import interval, p_value
from moe_tune.stats.decision import CORRECTED_AWAY, FEWEST_SEEDS
from moe_tune.stats.paired import PairedResult
from moe_tune.stats.standard_error import FEW_CLUSTERS


def method_line(comparison: Comparison, split: str) -> str:
    """Return the sentence under a split's table: how many questions, which interval, which test, which seeds."""
    seeds = sorted({seed for arm in comparison.arms.values() for seed in arm.results[split].seeds})
    arm = max(comparison.challengers or list(comparison.arms.values()), key=lambda one: len(one.results[split].seeds))
    result = arm.results[split]
    several = len(result.seeds) > 1
    logs = all("outside" in one.manifest for one in comparison.arms.values())
    averaged = "" if logs else f", averaged over seeds ({', '.join(map(str, seeds))})"
    return (
        f"{comparison.splits[split]}: n = {result.n:,} paired questions in {result.clusters:,} clusters of "
        f"equal content; difference to {comparison.baseline}{averaged}; "
        f"95 % interval: {result.interval_method}; p: {result.test}{', median seed' if several else ''}"
        f"{_correction(comparison)}."
    )


def openings_line(comparison: Comparison, split: str) -> str:
    """Return how often a split's test was opened before anybody wrote about it; empty where none was."""
    known = comparison.openings.get(split)
    if known is None:
        return ""
    unknown = f" Openings unknown: {', '.join(known.unknown)}." if known.unknown else ""
    if not known.count:
        return unknown.strip()
    times = "once" if known.count == 1 else f"{known.count:,} times"
    least = [known.corrected(arm.results[split].p) for arm in comparison.challengers]
    best = f"; the smallest p times this number is {p_value(min(least))}" if least and known.count > 1 else ""
    return f"{comparison.splits[split]}: this test (content {known.test}) was opened {times}{best}.{unknown}"


def _correction(comparison: Comparison) -> str:
    count = len(comparison.challengers)
    return f"; decisions after Holm's correction for {count} arms" if count > 1 else ""


def verdict(comparison: Comparison, split: str) -> str:
    """Return in plain words which arms helped on a split and which did not."""
    groups: dict[str, list[str]] = {}
    for arm in comparison.challengers:
        groups.setdefault(arm.results[split].decision, []).append(arm.name)
    said = {
        "improved": "Improved: {}.",
        "worse": "Worse than the baseline: {}.",
        "equivalent": "Did not help, equivalent within one point: {}.",
        "inconclusive": "Not shown to help or harm, inconclusive: {}.",
    }
    sentences = [text.format(", ".join(groups[word])) for word, text in said.items() if word in groups]
    doubtful = [arm.name for arm in comparison.challengers if CORRECTED_AWAY in arm.results[split].note]
    if doubtful:
        count = len(comparison.challengers)
        sentences.append(f"No longer significant after Holm's correction for {count} arms: {', '.join(doubtful)}.")
    return " ".join(sentences) or "There is only the baseline."


def routing_line(comparison: Comparison) -> str:
    """Return the sentence that says what the routing columns mean and how far "never" reaches; empty among logs."""
    known = (arm.routing[comparison.primary] for arm in comparison.arms.values())
    routing = next((one for one in known if one is not None), None)
    if routing is None:
        return (
            ""
            if all("outside" in arm.manifest for arm in comparison.arms.values())
            else "The runs recorded no routing at the answer position."
        )
    return (
        f"Routing: at the answer position of {comparison.splits[comparison.primary]}, mean over {len(routing.layers)} "
        f"layers. Never activated means by none of {routing.tokens:,} questions; such an expert may still serve up to "
        f"{100 * routing.never_bound:.2g} % of questions (95 % bound for all experts at once)."
    )


def subject_note(arm: Arm, split: str) -> str:
    """Return how far subjects differ beyond noise; empty where they could not be pooled."""
    found = arm.subjects[split]
    if found is None:
        return ""
    return (
        f"Spread between subjects: tau = {100 * found.tau:.2f} points, I² = {100 * found.i_squared:.0f} %, "
        f"Q = {found.q:.1f} (p = {found.q_p:.2g})."
    )


def described(comparison: Comparison, arm: Arm) -> dict[str, Any]:
    """Return what the page's foot says of an arm: name, facts, method by split, caveats."""
    manifest, result = arm.manifest, arm.results[comparison.primary]
    facts = {
        **_head_facts(manifest),
        **({} if "outside" in manifest else {"seeds": ", ".join(map(str, result.seeds))}),
        "runs": ", ".join(arm.runs),
    }
    if arm.name == comparison.baseline:
        return {"name": f"{arm.name} (baseline)", "facts": facts, "methods": [], "caveats": []}
    methods = [_method(comparison, arm, split) for split in comparison.splits]
    caveats = _caveats(result, log="outside" in manifest)
    return {"name": arm.name, "facts": facts, "methods": methods, "caveats": caveats}


def _head_facts(manifest: dict[str, Any]) -> dict[str, str]:
    if "outside" in manifest:  # a log tells nothing of a router
        return {"log": one_line(manifest["protocols"]), "model": str(manifest["base"].get("path", "not recorded"))}
    return {
        "head": manifest["head"],
        "scope": manifest["scope"],
        "layers": one_line(manifest["layers"]),
        "trainable": f"{manifest['trainable_parameters']:,} parameters",
    }


def _method(comparison: Comparison, arm: Arm, split: str) -> dict[str, str]:
    result = arm.results[split]
    counts = (
        f"{100 * result.discordance:.1f} % of answers differ; seed {result.median_seed} gained {result.n01:,} and lost "
        f"{result.n10:,}. After Holm's correction for {len(comparison.challengers)} arms p = {arm.p_holm[split]:.2g}."
    )
    if result.macro_diff is not None and result.macro_ci95 is not None:
        counts += f" Mean over subjects: {points(result.macro_diff)} {interval(*result.macro_ci95)} points."
    return {"label": comparison.splits[split], "counts": counts, "method": result.method}


def _caveats(result: PairedResult, *, log: bool) -> list[str]:
    caveats = []
    if log:
        caveats.append("A log of another program: the result speaks of these answers only.")
    elif len(result.seeds) == 1:
        caveats.append("One seed: the result speaks of this router only, not of the recipe that made it.")
    elif len(result.seeds) < FEWEST_SEEDS:
        caveats.append(
            f"{len(result.seeds)} seeds: the result speaks of these routers only; a decision about the recipe needs "
            f"{FEWEST_SEEDS}."
        )
    if result.clusters < FEW_CLUSTERS:
        caveats.append(f"Only {result.clusters} different questions: the interval is rough.")
    if result.design_effect > 1.5:
        caveats.append(f"Repeated questions widen the variance {result.design_effect:.1f}-fold.")
    if result.decision == "inconclusive":
        low, high = map(points, result.told_ci95)
        caveats.append(f"Inconclusive is not equal: differences from {low} to {high} points remain possible.")
    return caveats
