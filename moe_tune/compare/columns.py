"""The columns of a comparison's tables, one row per arm; accuracies in per cent, differences in points."""

import math
from collections.abc import Callable, Mapping
from itertools import chain

import pandas as pd

from moe_tune.compare.comparison import Comparison
from moe_tune.reports.table import DASH, Cell, Column, Table, interval, numbers, p_value, words
from moe_tune.stats.decision import BELOW_MARGIN, CORRECTED_AWAY, ONE_ROUTER, SIGN_HOLDS, THESE_ROUTERS
from moe_tune.stats.paired import PairedResult

TONES = {"improved": "good", "worse": "bad", "equivalent": "even", "inconclusive": "open", "baseline": "muted"}
"""The tone of each decision."""
NOTHING = Cell("", math.nan)
"""What the baseline has in the columns of a comparison with itself."""
ANSWERS = (
    "Gained and lost: questions that the median seed's answer became right or wrong on (flips.csv names them). ECE: "
    "mean distance of confidence and accuracy over 15 bins. Brier: 0 is right and sure, 2 wrong and sure. Letter bias: "
    "standard deviation, over letters, of the share answered right where the letter is the right one."
)
MARKS = {
    ONE_ROUTER: ("*", "one seed: this router only."),
    THESE_ROUTERS: ("+", "fewer than five seeds: these routers only."),
    CORRECTED_AWAY: ("~", "no longer significant after Holm's correction for the number of arms."),
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
    arm, *figures, decision = further(comparison, split).columns
    cells = {column.header: column.cells for column in figures}
    shown = {"accuracy, %": "accuracy %", "difference, points": "diff", "95 % interval": "95 % interval", "p": "p"}
    short = [Column(header, cells[name]) for name, header in shown.items()]
    return Table([arm, *short, marked(decision)], title=comparison.splits[split])


def marked(decision: Column) -> Column:
    """Return a column of decisions with marks in the place of notes."""
    texts = [f"{cell.text}{marks_of(cell.note)}" for cell in decision.cells]
    return words(decision.header, texts, [cell.tone for cell in decision.cells])


def routing(comparison: Comparison) -> Table | None:
    """Return the table of routing at the answer position of the primary split, for a terminal of 80 columns.

    Returns:
        ``None`` where every arm is a log of another program.
    """
    headers = ("top-k entropy", "never, %", "elsewhere, %")
    columns = _routing(comparison)
    if not columns:
        return None
    short = [Column(header, one.cells) for header, one in zip(headers, columns, strict=True)]
    return Table([*_arms(comparison), *short], title="routing")


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
    results = [(arm.results[split], arm.p_holm[split]) for arm in comparison.arms.values()]

    def compared(header: str, cell: Callable[[PairedResult], Cell]) -> Column:
        return Column(prefix + header, [NOTHING if one.decision == "baseline" else cell(one) for one, _ in results])

    def endings(header: str, ends: Mapping[str, tuple[float, float]]) -> Column:
        cells = [Cell(interval(*ends[arm]), 100 * ends[arm][0]) if arm in ends else NOTHING for arm in comparison.arms]
        return Column(prefix + header, cells)

    challengers = comparison.challengers
    drawn = {arm.name: arm.bootstrap[split] for arm in challengers if split in arm.bootstrap}
    p_holm = [Cell(p_value(p), p) if one.decision != "baseline" else NOTHING for one, p in results]
    return [
        compared("difference, points", lambda one: Cell(points(one.diff), 100 * one.diff)),
        compared("95 % interval", lambda one: Cell(interval(*one.told_ci95), 100 * one.told_ci95[0])),
        *([endings("bootstrap 95 % interval", drawn)] if drawn else []),
        compared("p", lambda one: Cell(p_value(one.p), one.p)),
        *([Column(f"{prefix}p, Holm", p_holm)] if len(challengers) > 1 else []),
        compared("smallest found, points", lambda one: _found(one.detectable)),
        *_acting(comparison, split, prefix),
        words(
            f"{prefix}decision",
            [one.decision for one, _ in results],
            [TONES[one.decision] for one, _ in results],
            [one.note for one, _ in results],
        ),
    ]


def answers(comparison: Comparison, split: str) -> Table | None:
    """Return the table of what changed in a split's answers, and of how well probabilities mean what they say.

    Returns:
        ``None`` where no arm recorded log-probabilities.
    """
    arms = comparison.arms.values()
    found = [arm.letters[split] for arm in arms]
    if not any(found):
        return None
    changes = [arm.flips[split].get("change", pd.Series(dtype=object)).value_counts() for arm in arms]
    return Table(
        [
            _arms(comparison)[0],
            *_opened(comparison, split),
            numbers("gained", [int(one.get("gained", 0)) for one in changes]),
            numbers("lost", [int(one.get("lost", 0)) for one in changes]),
            numbers("ECE, %", [one.ece if one else None for one in found], ".1f", 100),
            numbers("Brier", [one.brier if one else None for one in found], ".3f"),
            numbers("loss, nats", [one.loss if one else None for one in found], ".3f"),
            numbers("letter bias, points", [one.recall_spread if one else None for one in found], ".1f", 100),
        ],
        title=f"answers: {comparison.splits[split]}",
        caption=ANSWERS,
    )


def _acting(comparison: Comparison, split: str, prefix: str) -> list[Column]:
    shares = [arm.acting[split] for arm in comparison.arms.values()]
    return [numbers(f"{prefix}acted on, %", shares, ".1f", 100)] if any(one is not None for one in shares) else []


def _opened(comparison: Comparison, split: str) -> list[Column]:
    known = comparison.openings.get(split)
    if known is None or known.count < 2:
        return []
    results = [arm.results[split] for arm in comparison.arms.values()]
    values = [None if one.decision == "baseline" else known.corrected(one.p) for one in results]
    cells = [NOTHING if value is None else Cell(p_value(value), value) for value in values]
    return [Column(f"p x {known.count} openings", cells)]


def _found(difference: float) -> Cell:
    return Cell(f"{100 * difference:.2f}", 100 * difference) if math.isfinite(difference) else Cell(DASH, math.nan)


def _routing(comparison: Comparison) -> list[Column]:
    arms = comparison.arms.values()
    found = [arm.routing[comparison.primary] for arm in arms]
    if all("outside" in arm.manifest for arm in arms):
        return []
    return [
        numbers("top-k entropy, nats", [one.entropy_topk if one else None for one in found], ".3f"),
        numbers("never activated, %", [one.never_share if one else None for one in found], ".1f", 100),
        numbers("routed elsewhere, %", [arm.shift[comparison.primary] for arm in arms], ".1f", 100),
    ]
