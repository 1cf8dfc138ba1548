"""The comparison as Markdown, LaTeX, CSV and ``summary.json``, each with its method and plain words."""

import math
from typing import Any

import pandas as pd

from moe_tune.compare.answers import FLIPS
from moe_tune.compare.beside_tables import beside_tables
from moe_tune.compare.columns import wide
from moe_tune.compare.comparison import Arm, Comparison
from moe_tune.compare.non_inferiority import non_inferiority_tables, summarise_non_inferiority
from moe_tune.compare.short_answers import summarise_short_answers
from moe_tune.compare.text import summarise_texts
from moe_tune.compare.words import method_line, routing_line, verdict

RESULT = (
    "n", "accuracy", "diff", "ci95", "ci90", "p", "midp", "p_holm", "p_equivalence", "test", "decision", "note",
    "seeds", "seed_diffs", "median_seed", "n01", "n10", "discordance", "detectable", "clusters", "se", "df",
    "design_effect", "macro_diff", "macro_ci95",
)  # fmt: skip
"""What is told of a paired result, in this order; ``p_holm`` is the arm's."""
LETTERS = ("ece", "brier", "loss", "recall_spread")


def render_flips(comparison: Comparison) -> str:
    """Return the questions that each arm's median seed gained or lost, one row each; letters are counted from 0."""
    frames = [
        arm.flips[split].assign(arm=arm.name, split=split)[["arm", "split", *FLIPS]]
        for arm in comparison.challengers
        for split in comparison.splits
    ]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=["arm", "split", *FLIPS])
    return table.to_csv(index=False, lineterminator="\n")


def render_markdown(comparison: Comparison) -> str:
    """Return one wide table over all splits as Markdown, and below it each split's verdict and method."""
    sentences = [
        sentence
        for split, label in comparison.splits.items()
        for sentence in (f"**{label}**: {verdict(comparison, split)}", method_line(comparison, split))
    ]
    sentences += [part for table, said in non_inferiority_tables(comparison) for part in (table.markdown(), said)]
    beside = [
        part
        for tables in beside_tables(comparison).values()
        for table, method in tables
        for part in (table.markdown(), method)
    ]
    parts = [wide(comparison).markdown(), *sentences, routing_line(comparison), *beside, *comparison.notes]
    return "\n\n".join(filter(None, parts)) + "\n"


def render_csv(comparison: Comparison) -> str:
    """Return one row per arm and split, at full precision; shares and differences are fractions."""
    rows = []
    for arm in comparison.arms.values():
        for split in comparison.splits:
            entry = summarise_split(arm, split)
            low, high = entry.pop("ci95")
            bounds = entry.pop("ci90")
            drawn = entry.pop("bootstrap95", None)
            entry["seeds"] = " ".join(map(str, entry["seeds"]))
            entry["seed_diffs"] = " ".join(map(repr, entry["seed_diffs"]))
            macro = entry.pop("macro_ci95") or (None, None)
            ends = {"ci95_low": low, "ci95_high": high, "macro_ci95_low": macro[0], "macro_ci95_high": macro[1]}
            ends |= {"ci90_low": bounds[0], "ci90_high": bounds[1]}
            ends |= {"bootstrap95_low": drawn[0], "bootstrap95_high": drawn[1]} if drawn else {}
            rows.append({"arm": arm.name, "split": split, **entry, **ends})
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``summary.json``: the primary split's figures per arm, and all splits nested in it."""
    arms = {}
    for arm in comparison.arms.values():
        about = {key: arm.manifest[key] for key in ("head", "scope", "layers", "trainable_parameters", "base")}
        splits = {split: summarise_split(arm, split) for split in comparison.splits}
        read = summarise_texts(comparison.texts, arm.name)
        read |= summarise_short_answers(comparison.short_answers, arm.name)
        arms[arm.name] = {**splits[comparison.primary], **about, "runs": list(arm.runs), "splits": splits, **read}
    return {
        "baseline": comparison.baseline,
        "primary_split": comparison.primary,
        "splits": comparison.splits,
        "verdict": {split: verdict(comparison, split) for split in comparison.splits},
        "method": {split: method_line(comparison, split) for split in comparison.splits},
        "arms": arms,
        **summarise_non_inferiority(comparison),
        **({"notes": list(comparison.notes)} if comparison.notes else {}),
    }


def summarise_split(arm: Arm, split: str) -> dict[str, Any]:
    """Return one arm's figures on one split as plain values."""
    result, routing, letters = arm.results[split], arm.routing[split], arm.letters[split]
    values = {name: arm.p_holm[split] if name == "p_holm" else getattr(result, name) for name in RESULT}
    values |= {
        "entropy_topk": routing.entropy_topk if routing else None,
        "entropy_all": float(routing.entropy_all_L.mean()) if routing else None,
        "never_activated_share": routing.never_share if routing else None,
        "routed_elsewhere": arm.shift[split],
        **{name: getattr(letters, name) if letters else None for name in LETTERS},
        **({"acting_share": arm.acting[split]} if arm.acting[split] is not None else {}),
        **({"bootstrap95": arm.bootstrap[split]} if split in arm.bootstrap else {}),
    }
    values = {
        name: None if value in (math.inf, -math.inf) or value != value else value for name, value in values.items()
    }
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
