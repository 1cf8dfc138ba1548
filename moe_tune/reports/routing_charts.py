"""The charts of routing that epochs, analyses and comparisons share: usage, accuracy, entropy, accuracy by usage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moe_tune.reports.chart import Axis, Blank, Chart, Dash, Heat, Hover, Line, Mark, Points, Values, layer_ticks
from moe_tune.reports.palette import ROOT_STOPS, TWO_SIDED_STOPS
from moe_tune.stats.ratios import FEWEST, Floats, ratio

LEAST_REACH = 0.02
"""A scale of accuracies reaches 2 points either way at least: differences within the noise shall not look large."""


def usage_chart(layers: Values, usage_LE: Floats, tokens_L: Values, top: float, title: str = "") -> Chart:
    """Return the map of the share of tokens each expert gets; experts that never fired have a colour of their own."""
    tokens_LE1 = np.broadcast_to(np.asarray(tokens_L, dtype=np.float32)[:, None, None], (*usage_LE.shape, 1))
    cell, tokens = "layer %{y}, expert %{x}<br>", "%{customdata[0]:,} tokens"
    never = Blank(usage_LE == 0, "never", f"{cell}never fired in {tokens}")
    hover = Hover(f"{cell}usage %{{z:.2%}} of {tokens}", tokens_LE1)
    return _map(Heat(layers, usage_LE, ROOT_STOPS, 0, top, ".0%", [never], hover), title)


def accuracy_chart(experts: pd.DataFrame, overall: float, title: str = "") -> Chart:
    """Return the map of shrunk accuracy around that of all questions; grey where an expert has few questions."""
    questions_LE = grid(experts, "questions")
    trusted_LE = trusted(experts)
    reach = max(LEAST_REACH, float(np.max(np.abs(trusted_LE - overall), initial=0, where=~np.isnan(trusted_LE))))
    names = ("questions", "accuracy", "shrunk", "shrunk_low", "shrunk_high")
    shown = np.stack([grid(experts, name) for name in names], axis=-1).astype(np.float32)
    told = (
        "layer %{y}, expert %{x}<br>shrunk %{customdata[2]:.1%} [%{customdata[3]:.1%}, %{customdata[4]:.1%}]"
        "<br>raw %{customdata[1]:.1%}, n = %{customdata[0]:,} questions"
    )
    blanks = [Blank((questions_LE > 0) & (questions_LE < FEWEST), "few", told), Blank(questions_LE == 0, "card", "")]
    layers, low, high, hover = layer_names(experts), overall - reach, overall + reach, Hover(told, shown)
    heat = Heat(layers, trusted_LE, TWO_SIDED_STOPS, low, high, ".1%", blanks, hover)
    return _map(heat, title)


@dataclass(frozen=True, slots=True, eq=False)
class EntropyCurve:
    """One router's entropy by layer, in nats: its mean, the most it can be, and one deviation to either side."""

    name: str
    layers: Values
    mean_L: Values
    most_L: Values | None = None
    deviation_L: Values | None = None
    colour: str = "series-1"
    dash: Dash = "solid"
    width: float = 1.6


def entropy_chart(curves: Sequence[EntropyCurve], title: str = "") -> Chart:
    """Return entropies by layer; dotted, the most there can be: ln k, its mean over tokens where k varies."""
    marks: list[Mark] = []
    drawn: list[Floats] = []
    for curve in curves:
        hover = Hover(f"layer %{{x}}, {curve.name.replace('%', '')}<br>%{{y:.3f}} nats")
        if curve.most_L is not None:
            most_L = np.asarray(curve.most_L, dtype=np.float64)
            shown = [ratio(np.asarray(curve.mean_L), most_L)]
            told = f"{hover.text}<br>%{{customdata[0]:.1%}} of the maximum"
            if curve.deviation_L is not None:
                shown, told = [*shown, np.asarray(curve.deviation_L)], f"{told}, sd %{{customdata[1]:.3f}}"
            hover = Hover(told, np.stack(shown, axis=-1))
            known = most_L[~np.isnan(most_L)]  # none, where every token has one expert
            if len(known) and not any(np.allclose(most_L, other_L, equal_nan=True) for other_L in drawn):
                drawn.append(most_L)
                what = f"ln {np.exp(known[0]):.3g} = {known[0]:.2f}" if np.ptp(known) < 1e-9 else "mean of ln k"
                marks.append(Line(curve.layers, most_L, f"maximum: {what}", "muted", "dot", 1.5))
        marked = curve.dash != "dash" or curve.most_L is not None
        look = (curve.colour, curve.dash, curve.width, marked, curve.deviation_L, hover)
        marks.append(Line(curve.layers, curve.mean_L, curve.name, *look))
    return Chart(marks, Axis("layer", ticks=layer_ticks(curves[0].layers), lined=False), Axis("entropy, nats"), title)


def from_zero(chart: Chart, title: str = "", narrow: bool = False) -> Chart:
    """Return a chart of entropies again, from 0 to the most there can be: how much of it the differences are.

    Args:
        chart: The chart, which shows the curves as large as they fit.
        title: Title of the new one; its legend is that of the other.
        narrow: Whether only the first and the last layer are labelled.
    """
    lines = [replace(mark, name="", marked=False) for mark in chart.marks if isinstance(mark, Line)]
    most = max((float(np.nanmax(line.y)) for line in lines if not np.isnan(line.y).all()), default=0.0) or 1.0
    y = Axis("", ".1f", ends=(0, 1.04 * most))
    ticks = list((chart.x.ticks or {}).items())
    x = replace(chart.x, ticks=dict([ticks[0], ticks[-1]])) if narrow and ticks else chart.x
    return replace(chart, marks=lines, x=x, y=y, title=title)


def scatter_chart(experts: pd.DataFrame, overall: float, title: str = "", base: float | None = None) -> Chart:
    """Return each expert's raw accuracy against its usage, coloured by layer; hollow: few questions; marked: flagged.

    Where every question is one token, the band holds about 95 % of experts if each answered like all questions do; it
    stands on the normal approximation.
    """
    fired = experts[experts["questions"] > 0].assign(percent=lambda frame: 100 * frame["usage"])
    flagged = fired["flagged"].astype(bool) if "flagged" in fired else pd.Series(False, index=fired.index)
    few = (fired["questions"] < FEWEST) & ~flagged
    tokens = float(experts["tokens"].max())
    names = ["layer", "expert", "questions", "accuracy_low", "accuracy_high", "percent"]
    told = (
        "layer %{customdata[0]}, expert %{customdata[1]}<br>accuracy %{y:.1%} [%{customdata[3]:.1%}, "
        "%{customdata[4]:.1%}]<br>n = %{customdata[2]:,} questions, usage %{customdata[5]:.2f} %"
    )
    if "p_adjusted" in fired:
        names, told = [*names, "p_adjusted"], f"{told}<br>adjusted p %{{customdata[6]:.2g}}"

    layers = fired["layer"].to_numpy()
    looks: list[tuple[pd.Series[bool], dict[str, Any]]] = [
        (few, {"name": f"under {FEWEST} questions", "colour": "few", "symbol": "hollow"}),
        (~few & ~flagged, {"name": f"{FEWEST} questions and more", "shade": layers[~few & ~flagged]}),
        (flagged, {"name": "flagged (adjusted p < 0.05)", "colour": "flag", "symbol": "diamond", "size": 11}),
    ]
    marks: list[Mark] = []
    for those, look in looks:
        if those.any():
            rows = fired[those]
            hover = Hover(told, rows[names].to_numpy(dtype=np.float32))
            marks.append(Points(rows["usage"].to_numpy(), rows["accuracy"].to_numpy(), hover=hover, **look))
    share = np.geomspace(1 / tokens, 1, 60)
    one_token = (experts["questions"] == experts["count"]).all()
    reach = 1.96 * np.sqrt(overall * (1 - overall) / (share * tokens)) if one_token else None
    name = "all questions" if reach is None else "all questions; band: 95 % of experts by chance"
    marks.insert(0, Line(share, np.full(60, overall), name, "muted", "dot", 1.5, reach=reach))
    if base is not None:
        marks.append(Line([1 / tokens, 1], [base, base], "pretrained router", "ink", "dash", 1.2))
    ticks = {tick: f"{100 * tick:g} %" for tick in (0.0001, 0.001, 0.01, 0.1, 1) if tick >= 1 / tokens}
    x = Axis("usage: share of tokens that chose the expert", ticks=ticks, log=True)
    return Chart(marks, x, Axis("raw accuracy", ".0%", ends=(-0.03, 1.03)), title, height=430)


def grid(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column of a table of layers and experts as an array (L, E)."""
    values_LE: Floats = frame.pivot(index="layer", columns="expert", values=name).to_numpy(np.float64)
    return values_LE


def layer_names(frame: pd.DataFrame) -> Floats:
    """Return the index of each layer of a table, in the order of ``grid``."""
    return np.unique(frame["layer"])


def trusted(experts: pd.DataFrame) -> Floats:
    """Return the shrunk accuracy of the experts with enough questions, (L, E), NaN for the others."""
    return np.where(grid(experts, "questions") >= FEWEST, grid(experts, "shrunk"), np.nan)


def _map(heat: Heat, title: str) -> Chart:
    ends = (float(np.max(heat.layers)) + 0.5, float(np.min(heat.layers)) - 0.5)
    y = Axis("layer", ticks=layer_ticks(heat.layers), ends=ends, lined=False)
    x = Axis("expert", ticks=layer_ticks(np.arange(heat.value_LE.shape[1])), lined=False)
    return Chart([heat], x, y, title, height=80 + max(150, 22 * len(heat.layers)))
