"""The charts of an audit."""

from collections.abc import Callable

import numpy as np

from moe_tune.interventions.audit import Audit
from moe_tune.interventions.bridge import METRICS
from moe_tune.reports.chart import Axis, Blank, Chart, Heat, Hover, Mark, Points, Rule, layer_ticks, named_rows
from moe_tune.reports.palette import TWO_SIDED_STOPS

SHOWN = 20
"""Experts in the chart of the largest effects."""


def effect_map(audit: Audit) -> Chart | None:
    """Return the map of the mean change of log-probability by layer and expert."""
    frame = audit.experts
    layers, experts = np.unique(frame["layer"]), np.arange(frame["expert"].max() + 1)
    shape = (len(layers), len(experts))
    place = (np.searchsorted(layers, frame["layer"]), frame["expert"].to_numpy())
    names = ("log_prob", "log_prob_low", "log_prob_high", "accuracy", "treated", "p_claim")
    shown = np.full((*shape, len(names)), np.nan, dtype=np.float32)
    for index, name in enumerate(names):
        shown[(*place, index)] = frame[name]
    reach = max(1e-6, float(np.nanmax(np.abs(shown[..., 0]))))
    told = (
        "layer %{y}, expert %{x}<br>log-probability %{customdata[0]:+.4f} [%{customdata[1]:+.4f}, "
        "%{customdata[2]:+.4f}]<br>accuracy %{customdata[3]:+.2%}, routed %{customdata[4]:,}<br>"
        "p, Holm %{customdata[5]:.2g}"
    )
    blanks = [Blank(np.isnan(shown[..., 0]), "few", "not asked for")]
    heat = Heat(
        layers, shown[..., 0].astype(np.float64), TWO_SIDED_STOPS, -reach, reach, "+.3f", blanks, Hover(told, shown)
    )
    x, y = (
        Axis("expert", ticks=layer_ticks(experts), lined=False),
        Axis("layer", ticks=layer_ticks(layers), lined=False),
    )
    return Chart([heat], x, y, "Change of log-probability", height=120 + 34 * len(layers))


def largest(audit: Audit) -> Chart | None:
    """Return the experts that change most, with their intervals, beside experts of like usage."""
    frame = audit.experts.iloc[audit.experts["log_prob"].abs().argsort()[::-1]].head(SHOWN)
    rows = np.arange(len(frame))
    names = [f"layer {layer}, expert {expert}" for layer, expert in zip(frame["layer"], frame["expert"], strict=True)]
    own = Points(
        frame["log_prob"], rows, "expert, 95 % interval", ends=(frame["log_prob_low"], frame["log_prob_high"]),
        hover=Hover("%{x:+.4f} nats"),
    )  # fmt: skip
    known = frame["reference_draws"].to_numpy() > 0
    others = Points(
        frame["reference_mean"][known], rows[known], "experts of like usage, middle 90 %", "muted", "hollow",
        ends=(frame["reference_low"][known], frame["reference_high"][known]), hover=Hover("%{x:+.4f} nats, mean"),
    )  # fmt: skip
    marks: list[Mark] = [Rule(0.0, upright=True), *([others] if known.any() else []), own]
    return Chart(
        marks,
        Axis("change of log-probability, nats"),
        named_rows(names),
        "Largest changes",
        height=120 + 22 * len(names),
    )


def usage_scatter(audit: Audit) -> Chart | None:
    """Return the size of each expert's effect by how often it is used."""
    both = audit.experts.merge(audit.observed, on=["layer", "expert"])
    told = "layer %{customdata[0]}, expert %{customdata[1]}<br>usage %{x:.1%}, changes %{y:.4f} nats"
    shown = both[["layer", "expert"]].to_numpy()
    shade = both["layer"] if both["layer"].nunique() > 1 else None
    points = Points(both["usage"], both["log_prob"].abs(), shade=shade, hover=Hover(told, shown))
    x, y = Axis("share of questions routed to it", ".0%"), Axis("size of the change, nats")
    return Chart([points], x, y, "Usage and effect")


def bridge_points(audit: Audit) -> Chart | None:
    """Return the rank correlations of each metric with their intervals, a point per layer."""
    frame = audit.bridge[audit.bridge["spearman"].notna()]
    if frame.empty:
        return None
    layers = np.unique(frame["layer"])
    row = frame["metric"].map(list(METRICS).index).to_numpy()
    place = row + 0.7 * ((np.searchsorted(layers, frame["layer"]) + 0.5) / len(layers) - 0.5)
    shown = np.stack([frame[name] for name in ("layer", "low", "high", "experts")], axis=1)
    told = "layer %{customdata[0]}: %{x:+.2f} [%{customdata[1]:+.2f}, %{customdata[2]:+.2f}], %{customdata[3]} experts"
    shade = frame["layer"] if len(layers) > 1 else None
    points = Points(frame["spearman"], place, shade=shade, ends=(frame["low"], frame["high"]), hover=Hover(told, shown))
    x = Axis("rank correlation with the size of the effect", ends=(-1.0, 1.0))
    height = 120 + len(METRICS) * max(30, 9 * len(layers))
    return Chart([Rule(0.0, upright=True), points], x, named_rows(list(METRICS)), "Rank correlation", height=height)


CHARTS: dict[str, tuple[str, Callable[[Audit], Chart | None]]] = {
    "map": ("Change of the right letter's log-probability, by layer and expert", effect_map),
    "largest": ("The largest changes, beside experts of like usage", largest),
    "usage": ("Usage and effect", usage_scatter),
    "bridge": ("Rank correlation of what is observed with the effect", bridge_points),
}
"""Charts by the name the page asks for them, with their headings."""
