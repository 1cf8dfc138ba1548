"""The tables of what was tested beside questions with choices, under a heading each."""

from collections.abc import Mapping

from moe_tune.compare.columns import NOTHING, TONES, points
from moe_tune.compare.comparison import Comparison
from moe_tune.compare.short_answers import corrected
from moe_tune.compare.text import text_tables
from moe_tune.reports.table import Cell, Column, Table, interval, numbers, p_value, words
from moe_tune.stats.paired import PairedResult

Headed = dict[str, list[tuple[Table, str]]]
"""By heading: tables, each with the sentence under it."""


def beside_tables(comparison: Comparison) -> Headed:
    """Return the tables of texts and of short answers; no heading without one."""
    baseline = comparison.baseline
    short = [(_table(name, one), _method(name, one, baseline)) for name, one in comparison.short_answers.items()]
    found = {"Text": text_tables(comparison.texts, baseline), "Short answers": short}
    return {heading: tables for heading, tables in found.items() if tables}


def _table(name: str, by_arm: Mapping[str, PairedResult]) -> Table:
    """Return the table of a source of short answers, one row per arm."""
    results, p_holm = list(by_arm.values()), corrected(by_arm)

    def compared(header: str, cells: list[Cell]) -> Column:
        return Column(header, [cell if arm in p_holm else NOTHING for arm, cell in zip(by_arm, cells, strict=True)])

    several = compared("p, Holm", [Cell(p_value(p), p) for p in (p_holm.get(arm, 1.0) for arm in by_arm)])
    return Table(
        [
            words("arm", list(by_arm)),
            numbers("match %", [one.accuracy for one in results], ".2f", 100),
            compared("diff", [Cell(points(one.diff), 100 * one.diff) for one in results]),
            compared("95 % interval", [Cell(interval(*one.told_ci95), 100 * one.told_ci95[0]) for one in results]),
            *([several] if len(p_holm) > 1 else [compared("p", [Cell(p_value(one.p), one.p) for one in results])]),
            words(
                "decision",
                [one.decision for one in results],
                [TONES[one.decision] for one in results],
                [one.note for one in results],
            ),
        ],
        title=f"{name}: exact match of greedy answers",
    )


def _method(name: str, by_arm: Mapping[str, PairedResult], baseline: str) -> str:
    one = max(by_arm.values(), key=lambda result: (len(result.seeds), not result.unchanged))
    several = f"; decisions after Holm's correction for {len(by_arm) - 1} arms" if len(by_arm) > 2 else ""
    return (
        f"{name}: n = {one.n:,} paired questions, answered in words, in {one.clusters:,} clusters of equal content; an "
        f"answer is right if it equals an accepted text without case, punctuation and articles; difference to "
        f"{baseline} in points, mean over seeds; 95 % interval: {one.interval_method}; p: {one.test}{several}."
    )
