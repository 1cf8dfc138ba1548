"""The columns of a comparison's tables, one row per arm; accuracies in per cent, differences in points."""

import math
from collections.abc import Callable
from itertools import chain

from moe_tune.compare.comparison import Comparison
from moe_tune.reports.table import Cell, Column, Table, interval, numbers, p_value, words
from moe_tune.stats.decision import BELOW_MARGIN, ONE_ROUTER, SIGN_HOLDS
from moe_tune.stats.paired import PairedResult

TONES = {"improved": "good", "worse": "bad", "equivalent": "even", "inconclusive": "open", "baseline": "muted"}
"""The tone of each decision."""
MARKS = {
    ONE_ROUTER: ("*", "one seed: this router only."),
    BELOW_MARGIN: ("#", "below 1 point."),
    SIGN_HOLDS: ("!", "the sign differs between the protocols."),
}
"""Notes on a decision, by how they begin: the mark beside the word and its footnote."""


def points(value: float) -> str:
    """Return a signed difference in points.

    Example:
        >>> points(0.0312), points(-0.0004)
        ('+3.12', '-0.04')
    """
    return f"{100 * value:+.2f}"


def headline(comparison: Comparison) -> Table:
    """Return the main table: every split's accuracy, the primary split's difference, routing."""
    return _whole(comparison, _differences(comparison, comparison.primary))


def wide(comparison: Comparison) -> Table:
    """Return the one table that holds every split: accuracies, then differences, then routing."""
    compared = (_differences(comparison, split, prefix=f"{label}: ") for split, label in comparison.splits.items())
    return _whole(comparison, [*chain.from_iterable(compared)])


def further(comparison: Comparison, split: str) -> Table:
    """Return the table of a split beside the primary one."""
    return Table([_arms(comparison)[0], _accuracy(comparison, split, named=False), *_differences(comparison, split)])


def narrow(comparison: Comparison, split: str) -> Table:
    """Return the table of a split for a terminal of 80 columns; marks stand for the notes beside a decision."""
    arm, accuracy, *compared, decision = further(comparison, split).columns
    headers = ("accuracy %", "diff", "95 % interval", "p")
    short = [Column(header, column.cells) for header, column in zip(headers, (accuracy, *compared), strict=True)]
    texts = [f"{cell.text}{marks_of(cell.note)}" for cell in decision.cells]
    marked = words("decision", texts, [cell.tone for cell in decision.cells])
    return Table([arm, *short, marked], title=comparison.splits[split])


def routing(comparison: Comparison) -> Table:
    """Return the table of routing at the answer position of the primary split."""
    return Table([*_arms(comparison), *_routing(comparison)], title="routing")


def marks_of(note: str) -> str:
    """Return the marks that stand for a note."""
    return "".join(mark for begins, (mark, _) in MARKS.items() if begins in note)


def _whole(comparison: Comparison, compared: list[Column]) -> Table:
    accuracies = [_accuracy(comparison, split, named=True) for split in comparison.splits]
    return Table([*_arms(comparison), *accuracies, *compared, *_routing(comparison)])


def _arms(comparison: Comparison) -> list[Column]:
    arms = comparison.arms.values()
    seeds = [len(arm.results[comparison.primary].seeds) for arm in arms]
    return [words("arm", [arm.name for arm in arms]), numbers("seeds", seeds)]


def _accuracy(comparison: Comparison, split: str, named: bool) -> Column:
    results = [arm.results[split] for arm in comparison.arms.values()]
    header = f"{comparison.splits[split]}, % (n = {results[0].n:,})" if named else "accuracy, %"
    return numbers(header, [result.accuracy for result in results], ".2f", 100)


def _differences(comparison: Comparison, split: str, prefix: str = "") -> list[Column]:
    results = [arm.results[split] for arm in comparison.arms.values()]

    def compared(header: str, cell: Callable[[PairedResult], Cell]) -> Column:
        nothing = Cell("", math.nan)  # the baseline is not compared with itself
        return Column(prefix + header, [nothing if one.decision == "baseline" else cell(one) for one in results])

    return [
        compared("difference, points", lambda one: Cell(points(one.diff), 100 * one.diff)),
        compared("95 % interval", lambda one: Cell(interval(*one.ci95), 100 * one.ci95[0])),
        compared("p", lambda one: Cell(p_value(one.p), one.p)),
        words(
            f"{prefix}decision",
            [one.decision for one in results],
            [TONES[one.decision] for one in results],
            [one.note for one in results],
        ),
    ]


def _routing(comparison: Comparison) -> list[Column]:
    found = [arm.routing[comparison.primary] for arm in comparison.arms.values()]
    return [
        numbers("top-k entropy, nats", [one.entropy_topk if one else None for one in found], ".3f"),
        numbers("never activated, %", [one.never_share if one else None for one in found], ".1f", 100),
    ]
