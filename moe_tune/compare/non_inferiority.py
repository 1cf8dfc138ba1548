"""What a comparison says of sets the arms were not made for: does a change cost less there than a margin?"""

from collections.abc import Iterable
from typing import Any

from moe_tune.compare.columns import points
from moe_tune.compare.comparison import Arm, Comparison
from moe_tune.data.overlap import recorded
from moe_tune.data.suite_tasks import TASKS
from moe_tune.reports.table import Cell, Column, Table, numbers, words
from moe_tune.stats.non_inferiority import (
    NonInferiority,
    non_inferiority,
    pooled_non_inferiority,
    smallest_margin,
)

DISCORDANCE = 0.10
"""Share of answers that a margin allows to differ: fixed, so that no margin follows from what came out."""
POOL = ("hellaswag", "boolq", "arc_challenge", "winogrande", "piqa", "arc_easy")
"""The sets whose macro average is tested, where all are there but those that training brought into distribution."""
POOL_MARGINS = {6: 0.0075, 4: 0.0085}
"""Margin of the pool by its number of sets: just above the smallest that can be tested at that discordance."""
POOLED = "macro average"
TONES = {True: "good", False: "open"}


def tasks_of(arms: Iterable[Arm], splits: Iterable[str]) -> dict[str, str]:
    """Return the set of the wheel that each split asks, where it does."""
    sources: dict[str, Any] = {}
    for arm in arms:
        sources |= arm.manifest.get("data", {}).get("test_sources", {})
    named = {split: sources.get(split, {}).get("source", {}).get("arguments", {}).get("task") for split in splits}
    return {split: task for split, task in named.items() if task in TASKS}


def size_of(task: str) -> int:
    """Return how many questions a set has; a sample of it is held to the margin of the whole."""
    known = TASKS[task]
    return known.test or known.validation - known.contradictory


def near_training(comparison: Comparison) -> set[str]:
    """Return the splits that are not out of distribution for an arm."""
    return {split for arm in comparison.arms.values() for split in recorded(arm.manifest.get("data", {}))}


def findings(comparison: Comparison) -> dict[str, dict[str, NonInferiority]]:
    """Return for each arm the test of each set, by split, and of their pool; nothing where no set was asked."""
    tasks = tasks_of(comparison.arms.values(), comparison.splits)
    known = near_training(comparison)
    pool = [split for split, task in tasks.items() if task in POOL and split not in known]
    near = {task for split, task in tasks.items() if split in known}
    whole = {tasks[split] for split in pool} == set(POOL) - near and len(pool) in POOL_MARGINS
    found: dict[str, dict[str, NonInferiority]] = {}
    for arm in comparison.challengers if tasks else ():
        results = {split: arm.results[split] for split in tasks}
        found[arm.name] = {
            split: non_inferiority(one, smallest_margin(size_of(tasks[split]), DISCORDANCE))
            for split, one in results.items()
        }
        if whole:
            margin = POOL_MARGINS[len(pool)]
            found[arm.name][POOLED] = pooled_non_inferiority([results[split] for split in pool], margin)
    return found


def non_inferiority_tables(comparison: Comparison) -> list[tuple[Table, str]]:
    """Return the table of all sets and arms with the sentence under it; none where no set was asked."""
    rows = [(arm, split, one) for arm, by_split in findings(comparison).items() for split, one in by_split.items()]
    if not rows:
        return []
    every = [one for _, _, one in rows]
    names, known = [split.removeprefix("test_") for _, split, _ in rows], near_training(comparison)
    notes = ["not out of distribution" if split in known else "" for _, split, _ in rows]
    table = Table(
        [
            words("set", names, notes=notes),
            words("arm", [arm for arm, _, _ in rows]),
            Column("diff", [Cell(points(one.diff), 100 * one.diff) for one in every]),
            Column("at least", [Cell(points(one.low), 100 * one.low) for one in every]),
            numbers("margin", [one.margin for one in every], ".2f", 100),
            words("finding", [one.word for one in every], [TONES[one.holds] for one in every]),
        ],
        title="sets that the arms were not made for: non-inferiority",
    )
    return [(table, _method(comparison, POOLED in names))]


def _method(comparison: Comparison, pooled: bool) -> str:
    pool = f" {POOLED.capitalize()}: over {', '.join(POOL)}, but those not out of distribution." if pooled else ""
    return (
        f"Non-inferior: the lower one-sided 95 % bound of the difference to {comparison.baseline} (at least) lies "
        f"above minus the margin; in points. A set's margin is the smallest that all of its questions show in 80 % "
        f"of cases where nothing changed and {100 * DISCORDANCE:.0f} % of the answers differ.{pool} "
        "Not shown non-inferior is no finding of harm."
    )


def summarise_non_inferiority(comparison: Comparison) -> dict[str, Any]:
    """Return every finding as plain values; nothing where no set was asked."""
    plain = {
        arm: {
            split: {"diff": one.diff, "low": one.low, "margin": one.margin, "non_inferior": one.holds}
            for split, one in by_split.items()
        }
        for arm, by_split in findings(comparison).items()
    }
    return {"non_inferiority": plain} if plain else {}
