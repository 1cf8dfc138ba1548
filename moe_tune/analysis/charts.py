"""The charts of an analysis, each at one setting."""

from collections.abc import Callable

import numpy as np

from moe_tune.analysis.findings import Analysis
from moe_tune.reports import routing_charts as routing
from moe_tune.reports.chart import Axis, Bars, Chart, Hover, Mark, Points, Rule, layer_ticks, named_rows


def _usage(part: Analysis) -> Chart:
    usage_LE = routing.grid(part.experts, "usage")
    layers, top = routing.layer_names(part.experts), float(np.nanmax(usage_LE))
    return routing.usage_chart(layers, usage_LE, part.layers["tokens"], top)


def _entropy(part: Analysis, name: str) -> Chart:
    layers = part.layers
    mean, share = layers[f"{name}_mean"], layers[f"{name}_share"]
    curve = routing.EntropyCurve(
        "mean, band: one sd", layers["layer"], mean, mean / share, layers[f"{name}_std"], width=2.5
    )
    base = part.pretrained
    if base.empty:
        return routing.entropy_chart([curve])
    mean = base[f"{name}_mean"]
    beside = routing.EntropyCurve("pretrained router", base["layer"], mean, colour="ink", dash="dash")
    return routing.entropy_chart([curve, beside])


def _weights(part: Analysis) -> Chart:
    """Mean weights of the chosen experts, stacked from the largest to the smallest."""
    ranks = int(part.weights["rank"].max())
    bars = [
        Bars(
            rows["layer"],
            rows["weight_mean"],
            f"rank {rank}",
            opacity=1 - 0.75 * (int(str(rank)) - 1) / max(1, ranks - 1),
            hover=Hover(
                f"layer %{{x}}, rank {rank}<br>weight %{{y:.4f}}<br>%{{customdata:.1%}} of the chosen experts' sum",
                rows["share_mean"],
            ),
        )
        for rank, rows in part.weights.groupby("rank")
    ]
    x = Axis("layer", ticks=layer_ticks(part.layers["layer"].to_numpy()), lined=False)
    return Chart(bars, x, Axis("mean weight, summed over ranks"), stacked=True)


def _sensitivity(part: Analysis) -> Chart | None:
    """For each small change of the input, the share of chosen experts that change and of letters that flip."""
    if part.sensitivity.empty:
        return None
    routed = part.sensitivity[part.sensitivity["layer"] >= 0].groupby("change", sort=False)["changed_share"]
    letters = part.sensitivity[part.sensitivity["layer"] < 0].set_index("change").reindex(list(routed.groups))
    places, flipped = np.arange(len(letters)), letters["flipped_share"].astype(float)
    bars = [
        Bars(
            places, routed.mean(), "chosen experts that change, mean of layers", lying=True,
            hover=Hover(
                "%{y}<br>%{x:.1%} of chosen experts change<br>layers: %{customdata[0]:.1%} to %{customdata[1]:.1%}",
                routed.agg(["min", "max"]).to_numpy(dtype=np.float32),
            ),
        ),
        Bars(
            places, flipped, "letters that flip, 95 % interval", "series-2", lying=True,
            ends=(letters["flipped_low"], letters["flipped_high"]),
            hover=Hover("%{y}<br>%{x:.1%} of letters flip, n = %{customdata:,}", letters["questions"]),
        ),
    ]  # fmt: skip
    names = [str(name) for name in letters.index]
    return Chart(bars, Axis(form=".0%"), named_rows(names), height=130 + 52 * len(names))


def _committees(part: Analysis) -> Chart | None:
    """For each layer the share of a subject's weight on its committee, and what chance alone gives."""
    if part.committees.empty:
        return None
    rows = part.committees
    hover = Hover("layer %{x}<br>coverage %{y:.1%}<br>members: %{customdata}", rows["members"])
    bars = Bars(rows["layer"], rows["coverage"], "coverage", hover=hover)
    chance = Points(rows["layer"], rows["coverage_null_high"], "by chance, 95th percentile", "ink", "tick", 14)
    x = Axis("layer", ticks=layer_ticks(rows["layer"].to_numpy()), lined=False)
    return Chart([bars, chance], x, Axis("share of a subject's weight", form=".0%"))


def _regret(part: Analysis) -> Chart | None:
    """Share of sampled routes that answer better than the router's own, by confidence, beside random targets."""
    if part.regret.empty:
        return None
    rows = part.regret
    names = ["all questions" if name == "all" else f"fifth {name}" for name in rows["confidence"]]
    places = np.arange(len(rows))
    told = Hover("%{x:.1%} of routes better, n = %{customdata:,}", rows["questions"])
    marks: list[Mark] = [
        Rule(0.5, upright=True, name="no better, no worse"),
        Points(rows["better"], places, "routes better, 95 % interval", ends=(rows["low"], rows["high"]), hover=told),
        Points(rows["better_null"], places, "with random targets", "ink", "tick", 12),
    ]
    return Chart(marks, Axis("share of sampled routes", form=".0%"), named_rows(names), height=130 + 40 * len(names))


def _overall(part: Analysis) -> float:
    first = part.subjects[part.subjects["layer"] == part.subjects["layer"].min()]
    return float(first["correct"].sum() / max(1, first["questions"].sum()))


CHARTS: dict[str, Callable[[Analysis], Chart | None]] = {
    "usage": _usage,
    "accuracy": lambda part: routing.accuracy_chart(part.experts, _overall(part)),
    "entropy_all": lambda part: _entropy(part, "entropy_all"),
    "entropy_topk": lambda part: _entropy(part, "entropy_topk"),
    "entropy_all_0": lambda part: routing.from_zero(_entropy(part, "entropy_all")),
    "entropy_topk_0": lambda part: routing.from_zero(_entropy(part, "entropy_topk")),
    "weights": _weights,
    "scatter": lambda part: routing.scatter_chart(part.experts, _overall(part)),
    "sensitivity": _sensitivity,
    "committees": _committees,
    "regret": _regret,
}
"""Charts by the name the page asks for them, each of an analysis restricted to one setting."""
