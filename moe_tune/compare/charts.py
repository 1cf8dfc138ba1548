"""The charts of a comparison: differences with intervals, entropy and usage by layer, differences by subject."""

import numpy as np

from moe_tune.compare.columns import points
from moe_tune.compare.comparison import Comparison
from moe_tune.compare.routing_summary import RoutingSummary
from moe_tune.compare.subjects import SubjectDifferences
from moe_tune.reports.chart import Axis, Bars, Chart, Dash, Hover, Mark, Points, Rule, named_rows
from moe_tune.reports.palette import SERIES
from moe_tune.reports.routing_charts import EntropyCurve, entropy_chart, from_zero, usage_chart
from moe_tune.stats.decision import MARGIN

PRETRAINED = "pretrained router"
"""The name of the arm and of the curve of the router that nothing was done to."""
DASHES: tuple[Dash, ...] = ("solid", "dash", "dot")


def forest_chart(comparison: Comparison, split: str) -> Chart:
    """Return each arm's difference to the baseline with its 95 % interval; filled: improved or worse; ticks: seeds."""
    arms = comparison.challengers
    results = [arm.results[split] for arm in arms]
    margin = f"within {100 * MARGIN:g} point"
    marks: list[Mark] = [
        Rule(-100 * MARGIN, 100 * MARGIN, upright=True, colour="band", name=margin),
        Rule(0, upright=True, name="no difference"),
    ]
    named: set[str] = set()

    def once(name: str) -> str:
        known = name in named
        named.add(name)
        return "" if known else name

    for row, result in enumerate(results):
        decided = result.decision in ("improved", "worse")
        name = once("improved or worse, 95 % interval" if decided else "neither, 95 % interval")
        low, high = (np.array([100 * end]) for end in result.ci95)
        told = f"{arms[row].name}<br>{points(result.diff)} [{points(result.ci95[0])}, {points(result.ci95[1])}]"
        marks.append(
            Points(
                [100 * result.diff], [row], name, symbol="circle" if decided else "hollow", size=9,
                texts=[points(result.diff)], ends=(low, high), hover=Hover(f"{told}<br>{result.decision}"),
            )
        )  # fmt: skip
        if len(result.seeds) > 1:
            seeds = Hover("seed %{customdata}<br>%{x:+.2f} points", result.seeds)
            place = [row + 0.24] * len(result.seeds)
            diffs, name = [100 * one for one in result.seed_diffs], once("one seed")
            marks.append(Points(diffs, place, name, "muted", "tick", 5, hover=seeds))
    y = named_rows([arm.name for arm in arms], above=0.75)
    return Chart(marks, Axis(f"points against {comparison.baseline}"), y, height=150 + 44 * len(arms))


def shift_chart(comparison: Comparison, split: str) -> Chart | None:
    """Return each arm's difference to the baseline over how much of its routing went elsewhere; ``None`` for one."""
    moved = [(arm, shift) for arm in comparison.challengers if (shift := arm.shift[split]) is not None]
    if len(moved) < 2:
        return None
    results = [arm.results[split] for arm, _ in moved]
    ends = (np.array([100 * one.ci95[0] for one in results]), np.array([100 * one.ci95[1] for one in results]))
    names = [arm.name for arm, _ in moved]
    told = Hover("%{customdata}<br>%{x:+.2f} points, %{y:.1f} % elsewhere", names)
    x, y = [100 * one.diff for one in results], [100 * shift for _, shift in moved]
    places = Points(x, y, "arm, 95 % interval", size=9, texts=names, ends=ends, hover=told)
    across, up = f"points against {comparison.baseline}", "routed elsewhere, %"
    return Chart([Rule(0, upright=True, name="no difference"), places], Axis(across), Axis(up), height=340)


def entropy_charts(comparison: Comparison, split: str, pretrained: RoutingSummary | None = None) -> dict[str, Chart]:
    """Return the entropy by layer of every arm that recorded it, over the chosen experts and over all; none if none.

    Of each there is a second chart, from 0 to the most there can be.

    Args:
        comparison: The comparison.
        split: The split.
        pretrained: The pretrained router on the same questions, drawn dashed where no arm is it.
    """
    curves: dict[str, list[EntropyCurve]] = {"entropy_topk": [], "entropy_all": []}
    recorded = [arm for arm in comparison.arms.values() if arm.routing[split] is not None]
    for place, arm in enumerate(recorded):
        routing = arm.routing[split]
        assert routing is not None
        look: tuple[str, Dash, float] = ("ink", "solid", 2.4)
        if arm.name != comparison.baseline:
            look = (SERIES[(place - 1) % len(SERIES)], DASHES[(place - 1) // len(SERIES) % len(DASHES)], 1.6)
        even_L = np.full(len(routing.layers), np.log(routing.usage_LE.shape[1]))
        for name, mean_L, most_L in (
            ("entropy_topk", routing.entropy_topk_L, routing.entropy_topk_most_L),
            ("entropy_all", routing.entropy_all_L, even_L),
        ):
            curves[name].append(EntropyCurve(arm.name, routing.layers, mean_L, most_L, None, *look))
    if pretrained is not None and PRETRAINED not in comparison.arms:
        look = ("muted", "dash", 1.6)
        for name, mean_L in (("entropy_topk", pretrained.entropy_topk_L), ("entropy_all", pretrained.entropy_all_L)):
            curves[name].append(EntropyCurve(PRETRAINED, pretrained.layers, mean_L, None, None, *look))
    charts = {name: entropy_chart(drawn) for name, drawn in curves.items() if drawn}
    whole = {f"{name}_0": from_zero(chart) for name, chart in charts.items()}
    return {each: (charts | whole)[each] for name in charts for each in (name, f"{name}_0")}


def usage_charts(comparison: Comparison, split: str) -> dict[str, Chart]:
    """Return a map of usage per arm that recorded it, by arm; one scale for all."""
    drawn = {name: routing for name, arm in comparison.arms.items() if (routing := arm.routing[split]) is not None}
    top = max((float(routing.usage_LE.max()) for routing in drawn.values()), default=1)
    return {
        name: usage_chart(routing.layers, routing.usage_LE, [routing.tokens] * len(routing.layers), top)
        for name, routing in drawn.items()
    }


def subject_chart(found: SubjectDifferences) -> Chart:
    """Return an arm's pooled difference by subject with 95 % intervals; a tick marks the raw difference."""
    table = found.table
    rows = np.arange(len(table))
    pooled, low, high, raw = (100 * table[name].to_numpy() for name in ("pooled", "low", "high", "diff"))
    ends = "[%{customdata[1]:+.2f}, %{customdata[2]:+.2f}]"
    told = f"%{{y}}<br>pooled %{{customdata[0]:+.2f}} {ends}, raw %{{customdata[3]:+.2f}}"
    hover = Hover(told, np.stack([pooled, low, high, raw], axis=-1))
    names = table["subject"].str.replace("_", " ") + "  (" + table["n"].astype(str) + ")"
    marks: list[Mark] = [
        Bars(rows, pooled, "pooled, 95 % interval", opacity=0.55, lying=True, ends=(low, high), hover=hover),
        Points(raw, rows, "raw difference", "series-2", "tick", 9, hover=hover),
        Rule(0, upright=True),
    ]
    y = named_rows(names.tolist(), above=0.6)
    return Chart(marks, Axis("points against the baseline"), y, height=110 + 24 * len(table))
