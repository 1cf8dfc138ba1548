"""The comparison as tables: Markdown, CSV and ``summary.json``, each with its method and plain words."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from moe_tune.compare.comparison import Arm, Comparison
from moe_tune.stats.paired import PairedResult


def points(value: float) -> str:
    """Return a signed difference in points.

    Example:
        >>> points(0.0312), points(-0.0004)
        ('+3.12', '-0.04')
    """
    return f"{100 * value:+.2f}"


def interval(ends: tuple[float, float]) -> str:
    """Return a 95 % interval in points."""
    return f"[{points(ends[0])}, {points(ends[1])}]"


def p_value(p: float) -> str:
    """Return a p value to two significant digits.

    Example:
        >>> p_value(0.0312), p_value(1e-9), p_value(1.0)
        ('0.031', '<0.0001', '1')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def decision_text(result: PairedResult) -> str:
    """Return the decision word with its note."""
    return f"{result.decision} ({result.note})" if result.note else result.decision


def difference_cells(result: PairedResult) -> list[str]:
    """Return difference, 95 % interval, p and decision of an arm on a split; of the baseline only its name as such."""
    if result.decision == "baseline":
        return ["", "", "", "baseline"]
    return [points(result.diff), interval(result.ci95), p_value(result.p), decision_text(result)]


def wide(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the one table that holds every split: accuracies, then differences, then routing.

    Args:
        comparison: The comparison; accuracies are printed in per cent, differences in points, entropy in nats.
    """
    header, rows = headline(comparison)
    count = 2 + len(comparison.splits)  # arm, seeds and the accuracies
    names = ("difference, points", "95 % interval", "p", "decision")
    differences = [f"{label}: {name}" for label in comparison.splits.values() for name in names]
    wider = []
    for arm, row in zip(comparison.arms.values(), rows, strict=True):
        cells = [cell for split in comparison.splits for cell in difference_cells(arm.results[split])]
        wider.append([*row[:count], *cells, *row[-2:]])
    return [*header[:count], *differences, *header[-2:]], wider


def headline(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the main table: every split's accuracy, the primary split's difference and routing.

    Args:
        comparison: The comparison; accuracies are printed in per cent, differences in points, entropy in nats.
    """
    primary = comparison.primary
    sizes = {split: next(iter(comparison.arms.values())).results[split].n for split in comparison.splits}
    header = [
        "arm",
        "seeds",
        *(f"{label}, % (n = {sizes[split]:,})" for split, label in comparison.splits.items()),
        "difference, points",
        "95 % interval",
        "p",
        "decision",
        "top-k entropy, nats",
        "never activated, %",
    ]
    rows = []
    for arm in comparison.arms.values():
        routing = arm.routing[primary]
        rows.append(
            [
                arm.name,
                str(len(arm.results[primary].seeds)),
                *(f"{100 * arm.results[split].accuracy:.2f}" for split in comparison.splits),
                *difference_cells(arm.results[primary]),
                f"{routing.entropy_topk:.3f}" if routing else "-",
                f"{100 * routing.never_share:.1f}" if routing else "-",
            ]
        )
    return header, rows


def further(comparison: Comparison, split: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of a split beside the primary one.

    Args:
        comparison: The comparison.
        split: One of its splits.
    """
    header = ["arm", "accuracy, %", "difference, points", "95 % interval", "p", "decision"]
    rows = [
        [arm.name, f"{100 * arm.results[split].accuracy:.2f}", *difference_cells(arm.results[split])]
        for arm in comparison.arms.values()
    ]
    return header, rows


def method_line(comparison: Comparison, split: str) -> str:
    """Return the sentence under a split's table: how many questions, which interval, which test, which seeds."""
    seeds = sorted({seed for arm in comparison.arms.values() for seed in arm.results[split].seeds})
    arm = max(comparison.challengers or list(comparison.arms.values()), key=lambda one: len(one.results[split].seeds))
    result = arm.results[split]
    several = len(result.seeds) > 1
    return (
        f"{comparison.splits[split]}: n = {result.n:,} paired questions in {result.clusters:,} clusters of "
        f"equal content; difference to {comparison.baseline}, averaged over seeds ({', '.join(map(str, seeds))}); "
        f"95 % interval: {result.interval_method}; p: exact McNemar test, two-sided"
        f"{', median seed' if several else ''}, not corrected for the number of arms."
    )


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
    if len(comparison.challengers) > 1:
        doubtful = [
            arm.name
            for arm in comparison.challengers
            if arm.results[split].decision in ("improved", "worse") and arm.p_holm[split] >= 0.05
        ]
        if doubtful:
            count = len(comparison.challengers)
            sentences.append(f"No longer significant after Holm's correction for {count} arms: {', '.join(doubtful)}.")
    return " ".join(sentences) or "There is only the baseline."


def routing_line(comparison: Comparison) -> str:
    """Return the sentence that says what the routing columns mean and how far "never" reaches."""
    routing = comparison.arms[comparison.baseline].routing[comparison.primary]
    if routing is None:
        return "The runs recorded no routing at the answer position."
    return (
        f"Routing: at the answer position of {comparison.splits[comparison.primary]}, mean over {len(routing.layers)} "
        f"layers. Never activated means by none of {routing.tokens:,} questions; such an expert may still serve up to "
        f"{100 * routing.never_bound:.2g} % of questions (95 % bound for all experts at once)."
    )


def render_markdown(comparison: Comparison) -> str:
    """Return one wide table over all splits as Markdown, and below it each split's verdict and method."""
    sentences = [
        sentence
        for split in comparison.splits
        for sentence in (_said(comparison, split), method_line(comparison, split))
    ]
    return (
        "\n\n".join([_markdown_table(*wide(comparison)), *sentences, routing_line(comparison), *comparison.notes])
        + "\n"
    )


def render_csv(comparison: Comparison) -> str:
    """Return one row per arm and split, at full precision; shares and differences are fractions."""
    rows = []
    for arm in comparison.arms.values():
        for split in comparison.splits:
            entry = summarise_split(arm, split)
            low, high = entry.pop("ci95")
            entry["seeds"] = " ".join(map(str, entry["seeds"]))
            entry["seed_diffs"] = " ".join(map(repr, entry["seed_diffs"]))
            macro = entry.pop("macro_ci95") or (None, None)
            ends = {"ci95_low": low, "ci95_high": high, "macro_ci95_low": macro[0], "macro_ci95_high": macro[1]}
            rows.append({"arm": arm.name, "split": split, **entry, **ends})
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``summary.json``: the primary split's figures per arm, and all splits nested in it.

    Args:
        comparison: The comparison; shares and differences are fractions, entropies nats.
    """
    arms = {}
    for arm in comparison.arms.values():
        about = {key: arm.manifest[key] for key in ("head", "scope", "layers", "trainable_parameters", "base")}
        splits = {split: summarise_split(arm, split) for split in comparison.splits}
        arms[arm.name] = {**splits[comparison.primary], **about, "runs": list(arm.runs), "splits": splits}
    return {
        "baseline": comparison.baseline,
        "primary_split": comparison.primary,
        "splits": comparison.splits,
        "verdict": {split: verdict(comparison, split) for split in comparison.splits},
        "method": {split: method_line(comparison, split) for split in comparison.splits},
        "arms": arms,
        **({"notes": list(comparison.notes)} if comparison.notes else {}),
    }


def summarise_split(arm: Arm, split: str) -> dict[str, Any]:
    """Return one arm's figures on one split as plain values.

    Args:
        arm: The arm.
        split: One of its splits.
    """
    result, routing = arm.results[split], arm.routing[split]
    return {
        "n": result.n,
        "accuracy": result.accuracy,
        "diff": result.diff,
        "ci95": list(result.ci95),
        "p": result.p,
        "midp": result.midp,
        "p_holm": arm.p_holm[split],
        "decision": result.decision,
        "note": result.note,
        "seeds": list(result.seeds),
        "seed_diffs": list(result.seed_diffs),
        "median_seed": result.median_seed,
        "n01": result.n01,
        "n10": result.n10,
        "discordance": result.discordance,
        "clusters": result.clusters,
        "se": result.se,
        "df": result.df,
        "design_effect": result.design_effect,
        "macro_diff": result.macro_diff,
        "macro_ci95": list(result.macro_ci95) if result.macro_ci95 else None,
        "entropy_topk": routing.entropy_topk if routing else None,
        "entropy_all": float(routing.entropy_all_L.mean()) if routing else None,
        "never_activated_share": routing.never_share if routing else None,
    }


def _said(comparison: Comparison, split: str) -> str:
    return f"**{comparison.splits[split]}**: {verdict(comparison, split)}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, [":---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
