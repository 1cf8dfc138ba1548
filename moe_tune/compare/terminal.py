"""The comparison for a terminal of 80 columns: one narrow table per split and one on routing."""

from dataclasses import replace

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moe_tune.compare.beside_tables import beside_tables
from moe_tune.compare.columns import MARKS, marked, marks_of, narrow, routing
from moe_tune.compare.comparison import Comparison
from moe_tune.compare.non_inferiority import non_inferiority_tables
from moe_tune.compare.words import method_line, openings_line, routing_line, verdict


def render_terminal(comparison: Comparison) -> Group:
    """Return the tables for a rich console; marks stand for the notes beside a decision, explained at the end.

    At 80 columns names of up to 22 characters stay on one line; longer ones are folded, never cut.
    """
    parts: list[Table | Text] = []
    for split in comparison.splits:
        said, method = f"\n{verdict(comparison, split)}", f"{method_line(comparison, split)}\n"
        parts += [narrow(comparison, split).terminal(), Text(said), Text(method, style="dim")]
    for table, said in non_inferiority_tables(comparison):
        parts += [table.terminal(), Text(f"\n{said}\n", style="dim")]
    results = [result for arm in comparison.arms.values() for result in arm.results.values()]
    results += [result for by_arm in comparison.short_answers.values() for result in by_arm.values()]
    seen = {mark for result in results for mark in marks_of(result.note)}
    footnotes = [f"{mark} {text} " for mark, text in MARKS.values() if mark in seen]
    opened = [line for split in comparison.splits if (line := openings_line(comparison, split))]
    last = ["".join(footnotes) + routing_line(comparison), *comparison.notes, *opened]
    beside: list[Table | Text] = []
    for table, method in (one for tables in beside_tables(comparison).values() for one in tables):
        short = replace(table, columns=[*table.columns[:-1], marked(table.columns[-1])])
        beside += [Text(), short.terminal(), Text(method, style="dim")]
    used = routing(comparison)
    return Group(*parts, *([used.terminal()] if used else []), *beside, Text("\n" + "\n".join(last), style="dim"))
