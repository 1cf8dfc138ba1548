"""Charts drawn by plotly for a page; colours are names of the page's CSS variables and follow its theme."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from moe_tune.reports.chart import Axis, Bars, Chart, Heat, Hover, Line, Mark, Points, Rule, layer_ticks
from moe_tune.reports.palette import EVEN_STOPS, Stops

SYMBOLS = {"circle": "circle", "hollow": "circle-open", "diamond": "diamond", "tick": "line-ns-open"}


def page_figure(chart: Chart) -> go.Figure:
    """Return a chart as plotly's figure, its colours such as ``var(--ink)``."""
    named = any(getattr(mark, "name", "") for mark in chart.marks)
    heat = any(isinstance(mark, Heat) for mark in chart.marks)
    figure = go.Figure(
        layout={
            "template": "none",
            "height": chart.height,
            "margin": {"l": 56, "r": 10 if heat else 16, "t": 30 if named else 8, "b": 46},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "var(--ink)", "size": 12, "family": "system-ui, Segoe UI, Roboto, sans-serif"},
            "hoverlabel": {
                "bgcolor": "var(--card)", "bordercolor": "var(--muted)", "font": {"color": "var(--ink)"},
            },
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "barmode": "stack" if chart.stacked else "group",
            "bargap": 0.25,
            "xaxis": _axis(chart.x),
            "yaxis": _axis(chart.y),
        }
    )  # fmt: skip
    for mark in chart.marks:
        _draw(figure, mark)
    return figure


def _draw(figure: go.Figure, mark: Mark) -> None:
    match mark:
        case Heat():
            _heat(figure, mark)
        case Rule():
            _rule(figure, mark)
        case Bars():
            x, y = (mark.length, mark.place) if mark.lying else (mark.place, mark.length)
            figure.add_bar(
                x=x, y=y, orientation="h" if mark.lying else "v", opacity=mark.opacity, **_named(mark.name),
                marker={"color": f"var(--{mark.colour})", "line": {"color": "var(--card)", "width": 1}},
                **_told(mark.hover), **_ends("x" if mark.lying else "y", mark.length, mark.ends),
            )  # fmt: skip
        case Line():
            if mark.reach is not None:
                edge: dict[str, Any] = {"x": mark.x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
                fill = {"fill": "tonexty", "fillcolor": f"var(--{mark.colour} 29)"}
                y, reach = np.asarray(mark.y), np.asarray(mark.reach)
                figure.add_scatter(**edge, y=y + reach, showlegend=False)
                figure.add_scatter(**edge, **fill, y=y - reach, showlegend=False)
            figure.add_scatter(
                x=mark.x, y=mark.y, mode="lines+markers" if mark.marked else "lines", **_named(mark.name),
                line={"color": f"var(--{mark.colour})", "width": mark.width, "dash": mark.dash}, **_told(mark.hover),
            )  # fmt: skip
        case Points():
            marker: dict[str, Any] = {"symbol": SYMBOLS[mark.symbol], "size": mark.size}
            marker["color"] = f"var(--{mark.colour})"
            if mark.symbol == "tick":
                marker["line"] = {"width": 2}
            if mark.shade is not None:
                marker |= {
                    "color": np.asarray(mark.shade), "colorscale": _scale(EVEN_STOPS), "opacity": 0.8,
                    "colorbar": {**_bar(".0f"), "title": {"text": "layer"}, "tickvals": list(layer_ticks(mark.shade))},
                }  # fmt: skip
            figure.add_scatter(
                x=mark.x, y=mark.y, mode="markers+text" if mark.texts else "markers", text=mark.texts,
                textposition="top center", marker=marker, **_named(mark.name), **_told(mark.hover),
                **_ends("x", mark.x, mark.ends),
            )  # fmt: skip


def _heat(figure: go.Figure, mark: Heat) -> None:
    experts = np.arange(mark.value_LE.shape[1])
    cell: dict[str, Any] = {"x": experts, "y": mark.layers, "xgap": 1, "ygap": 1, "hoverongaps": False}
    blank_LE = np.any([blank.cells_LE for blank in mark.blanks], axis=0)
    figure.add_heatmap(
        **cell, z=np.where(blank_LE, np.nan, mark.value_LE).astype(np.float32), zmin=mark.low, zmax=mark.high,
        colorscale=_scale(mark.stops), colorbar=_bar(mark.form), **_told(mark.hover),
    )  # fmt: skip
    for blank in mark.blanks:
        if blank.cells_LE.any():
            figure.add_heatmap(
                **cell, z=np.where(blank.cells_LE, 0, np.nan).astype(np.float32), showscale=False,
                colorscale=[[0, f"var(--{blank.colour})"], [1, f"var(--{blank.colour})"]],
                **_told(Hover(blank.text, mark.hover.shown)),
            )  # fmt: skip


def _rule(figure: go.Figure, mark: Rule) -> None:
    if mark.name:  # what plotly draws across a chart has no legend
        look = {"color": f"var(--{mark.colour})"}
        mode = {"mode": "lines", "line": {**look, "dash": "dot", "width": 1.5}}
        if mark.until is not None:
            mode = {"mode": "markers", "marker": {**look, "symbol": "square", "size": 11}}
        figure.add_scatter(x=[None], y=[None], **mode, **_named(mark.name))
    along = "v" if mark.upright else "h"
    if mark.until is None:
        getattr(figure, f"add_{along}line")(
            mark.at, line={"color": f"var(--{mark.colour})", "dash": "dot", "width": 1.5}
        )
    else:
        ends = ("x0", "x1") if mark.upright else ("y0", "y1")
        getattr(figure, f"add_{along}rect")(
            **dict(zip(ends, (mark.at, mark.until), strict=True)), fillcolor=f"var(--{mark.colour})", line_width=0,
            layer="below",
        )  # fmt: skip


def _axis(axis: Axis) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "title": {"text": axis.title, "standoff": 8},
        "gridcolor": "var(--grid)", "linecolor": "var(--grid)", "tickcolor": "var(--grid)",
        "tickfont": {"color": "var(--muted)"}, "zeroline": False, "showgrid": axis.lined, "tickformat": axis.form,
        "automargin": True,
    }  # fmt: skip
    if axis.ticks is not None:
        drawn |= {"tickvals": list(axis.ticks), "ticktext": list(axis.ticks.values())}
    if axis.ends is not None:
        drawn["range"] = np.log10(axis.ends).tolist() if axis.log else list(axis.ends)
    return drawn | ({"type": "log"} if axis.log else {})


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "showlegend": bool(name)}


def _told(hover: Hover) -> dict[str, Any]:
    told = {"hovertemplate": f"{hover.text}<extra></extra>"} if hover.text else {"hoverinfo": "skip"}
    return told if hover.shown is None else told | {"customdata": hover.shown}


def _ends(along: str, value: Any, ends: tuple[Any, Any] | None) -> dict[str, Any]:
    if ends is None:
        return {}
    low, high = (np.abs(np.asarray(end) - np.asarray(value)) for end in ends)
    return {f"error_{along}": {"array": high, "arrayminus": low, "color": "var(--ink)", "thickness": 1.3, "width": 4}}


def _scale(stops: Stops) -> list[list[Any]]:
    return [[place, f"var(--{colour})"] for place, colour in stops]


def _bar(form: str) -> dict[str, Any]:
    return {"thickness": 10, "outlinewidth": 0, "tickformat": form, "tickfont": {"color": "var(--muted)"}, "nticks": 6}
