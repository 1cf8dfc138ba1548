"""A model before and after: what it costs and what it still can, compared question by question, as two tables."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moe_tune.base.errors import DataError
from moe_tune.callbacks.text_records import compared_frames
from moe_tune.pruning.costs import ModelCosts
from moe_tune.pruning.judged_model import JudgedSet, Kind
from moe_tune.reports.table import Cell, Column, Table, interval, numbers, words
from moe_tune.stats.paired import compare_paired

FIGURES: dict[Kind, str] = {
    "questions": "accuracy, %",
    "text": "token loss, nats",
    "generation": "exact match, %",
}
TONES = {
    "improved": "good",
    "worse": "bad",
    "equivalent": "even",
    "inconclusive": "open",
    "better": "good",
    "kept": "even",
    "harmed": "bad",
    "open": "open",
}
GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """How a set goes before and after.

    Attributes:
        name: The set's name.
        kind: Its kind; accuracies and exact matches are fractions, losses of text nats per token.
        n: Questions or documents.
        before: Before.
        after: After.
        diff: After less before.
        ci95: Its 95 % interval, paired.
        decision: What the comparison says: of questions ``improved``, ``worse``, ``equivalent`` or ``inconclusive``, of
            text ``better``, ``kept``, ``harmed`` or ``open``.
        method: How interval and decision were made.
    """

    name: str
    kind: Kind
    n: int
    before: float
    after: float
    diff: float
    ci95: tuple[float, float] | None
    decision: str
    method: str


def compared_set(name: str, before: JudgedSet, after: JudgedSet, seed: int) -> BeforeAfter:
    """Return how a set goes before and after, by the same questions or documents.

    Args:
        name: Its name.
        before: What the model made of it.
        after: What the model makes of it now.
        seed: The seed that stands in the comparison.
    """
    first, last = before.frame, after.frame
    assert list(first["content_hash"]) == list(last["content_hash"])
    if before.kind == "text":
        one, other = (float((each["loss"] * each["tokens"]).sum() / each["tokens"].sum()) for each in (first, last))
        try:
            text = compared_frames(first, last)
        except DataError:
            return BeforeAfter(name, "text", len(first), one, other, other - one, None, "open", "a single document")
        method = "bootstrap over documents; better: perplexity ratio below 1, kept: at most 1.01"
        return BeforeAfter(name, "text", text.documents, one, other, text.diff, text.ci95, text.kept, method)
    right_Q, was_Q = (each["correct"].to_numpy(dtype=np.bool_) for each in (last, first))
    subjects = list(first["subject"]) if "subject" in first else [""] * len(first)
    one, other = float(was_Q.mean()), float(right_Q.mean())
    try:
        found = compare_paired(was_Q[None], right_Q[None], list(first["content_hash"]), subjects, [seed])
    except DataError:
        return BeforeAfter(name, before.kind, len(first), one, other, other - one, None, "open", "a single question")
    method = f"{found.interval_method}; {found.n01} gained, {found.n10} lost"
    return BeforeAfter(name, before.kind, found.n, one, other, found.diff, found.told_ci95, found.decision, method)


def compared_sets(before: Mapping[str, JudgedSet], after: Mapping[str, JudgedSet], seed: int) -> list[BeforeAfter]:
    """Return how every set goes before and after."""
    return [compared_set(name, one, after[name], seed) for name, one in before.items()]


def costs_table(before: ModelCosts, after: ModelCosts) -> Table:
    """Return what a model costs before and after, a row per figure."""
    rows = [
        ("experts of a layer", before.experts, after.experts, ".4g"),
        ("experts of a token", before.top_k, after.top_k, "d"),
        ("size on disk, GB", before.disk_bytes / GIGABYTE, after.disk_bytes / GIGABYTE, ".4g"),
        ("weights in memory, GB", before.memory_bytes / GIGABYTE, after.memory_bytes / GIGABYTE, ".4g"),
        ("tokens/s, forward", before.tokens_per_second, after.tokens_per_second, ",.0f"),
        ("seconds of a training step", before.step_seconds, after.step_seconds, ".3g"),
    ]
    return Table(
        [
            words("cost", [name for name, *_ in rows]),
            Column("before", [Cell(format(one, form), one) for _, one, _, form in rows]),
            Column("after", [Cell(format(other, form), other) for _, _, other, form in rows]),
            numbers("ratio", [other / one for _, one, other, _ in rows], ".3f"),
        ],
        caption=(
            f"Timed on {before.device}: whole prompts, the fastest of three passes; a training step is forward, "
            "backward and update of a router in every layer, the median of five. Other work on the machine moves both."
        ),
        title="What it costs",
        evidence="measured",
    )


def sets_table(rows: list[BeforeAfter], chosen_on: str) -> Table:
    """Return what a model still can, a row per set.

    Args:
        rows: The sets.
        chosen_on: What the experts were chosen on, for the caption.
    """
    methods = sorted({one.method.partition(";")[0] for one in rows})
    return Table(
        compared_columns(rows, "before", "after"),
        caption=(
            f"Paired, on the same questions or documents; {chosen_on}. Intervals: {'; '.join(methods)}. Not corrected "
            "for the number of sets."
        ),
        title="What it still can",
        evidence="interventional",
    )


def compared_columns(rows: list[BeforeAfter], first: str, last: str) -> list[Column]:
    """Return the columns of a comparison, a row per set.

    Args:
        rows: The sets.
        first: What the model is called that they begin with.
        last: What the one is called that they end with.
    """
    scale = [1 if one.kind == "text" else 100 for one in rows]
    form = [".4f" if one.kind == "text" else ".2f" for one in rows]

    def cells(key: str, sign: str = "") -> list[Cell]:
        values = [getattr(one, key) for one in rows]
        return [
            Cell(format(by * value, f"{sign}{how}"), by * value)
            for value, by, how in zip(values, scale, form, strict=True)
        ]

    ends = [
        Cell("" if one.ci95 is None else interval(*one.ci95, f"+{how}", by))
        for one, by, how in zip(rows, scale, form, strict=True)
    ]
    unfolded = [""] * len(rows)
    return [
        words("set", [one.name for one in rows], unfolded),
        words("figure", [FIGURES[one.kind] for one in rows], unfolded),
        numbers("n", [one.n for one in rows]),
        Column(first, cells("before")),
        Column(last, cells("after")),
        Column("difference", cells("diff", "+")),
        Column("95 % interval", ends),
        words("decision", [one.decision for one in rows], [TONES[one.decision] for one in rows]),
    ]


def plain(rows: list[BeforeAfter], before: ModelCosts, after: ModelCosts) -> dict[str, Any]:
    """Return both tables as plain values for JSON."""
    return {"costs": {"before": asdict(before), "after": asdict(after)}, "sets": [asdict(one) for one in rows]}
