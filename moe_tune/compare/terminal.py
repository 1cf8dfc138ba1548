"""The comparison for a terminal of 80 columns: one narrow table per split and one on routing."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moe_tune.compare.comparison import Comparison
from moe_tune.compare.table import difference_cells, headline, method_line, routing_line, verdict
from moe_tune.stats.decision import BELOW_MARGIN, ONE_ROUTER, SIGN_HOLDS
from moe_tune.stats.paired import PairedResult

COLOURS = {"improved": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "yellow", "baseline": "dim"}
MARKS = {
    ONE_ROUTER: ("*", "one seed: this router only."),
    BELOW_MARGIN: ("#", "below 1 point."),
    SIGN_HOLDS: ("!", "the sign differs between the protocols."),
}
"""Notes on a decision, by how they begin: the mark beside the word and its footnote."""


def render_terminal(comparison: Comparison) -> Group:
    """Return the tables for a rich console; marks stand for the notes beside a decision, explained at the end.

    At 80 columns names of up to 22 characters stay on one line; longer ones are folded, never cut.

    Args:
        comparison: The comparison; accuracies are printed in per cent, differences in points.
    """
    parts: list[Table | Text] = []
    for split, label in comparison.splits.items():
        rows = []
        for arm in comparison.arms.values():
            result = arm.results[split]
            accuracy, (*figures, _) = f"{100 * result.accuracy:.2f}", difference_cells(result)
            rows.append([arm.name, accuracy, *figures, result.decision + _marks(result)])
        table = _table(["arm", "accuracy %", "diff", "95 % interval", "p", "decision"], rows, title=label)
        said, method = f"\n{verdict(comparison, split)}", f"{method_line(comparison, split)}\n"
        parts += [table, Text(said), Text(method, style="dim")]
    routing = [[row[0], row[1], *row[-2:]] for row in headline(comparison)[1]]
    parts.append(_table(["arm", "seeds", "top-k entropy, nats", "never activated, %"], routing, title="routing"))
    seen = {mark for arm in comparison.arms.values() for result in arm.results.values() for mark in _marks(result)}
    footnotes = [f"{mark} {text} " for mark, text in MARKS.values() if mark in seen]
    last = ["".join(footnotes) + routing_line(comparison), *comparison.notes]
    return Group(*parts, Text("\n" + "\n".join(last), style="dim"))


def _marks(result: PairedResult) -> str:
    return "".join(mark for note, (mark, _) in MARKS.items() if note in result.note)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=0,
        pad_edge=False,
    )  # fmt: skip
    for column in header:
        if column == "arm":
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="left" if column == "decision" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell.rstrip("*#!"), "")) for cell in row))
    return table
