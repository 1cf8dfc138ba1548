"""The report's figures as plotly data; colours are names of the page's CSS variables, so that they follow its theme."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from moe_tune.analysis.findings import Analysis

INK, MUTED, GRID, CARD, FLAG, NEVER = (f"var(--{name})" for name in ("ink", "muted", "grid", "card", "flag", "never"))
SERIES = [f"var(--series-{place})" for place in range(1, 5)]
ROOT_SCALE = [[(place / 4) ** 2, f"var(--seq-{place})"] for place in range(5)]
"""Colours by the root of the value: what is rare stays visible beside what is frequent."""
TWO_SIDED = [[0, "var(--low)"], [0.5, "var(--middle)"], [1, "var(--high)"]]


def usage_map(part: Analysis) -> go.Figure:
    """Return the layer x expert map of usage; experts that never fired have a colour of their own.

    Args:
        part: An analysis restricted to one setting.
    """
    usage, count = _grid(part, "usage"), _grid(part, "count")
    counted = np.stack([count.to_numpy(), _grid(part, "tokens").to_numpy()], axis=-1).astype(np.float32)
    fired = count.to_numpy() > 0
    figure = _figure(_map_height(usage))
    figure.add_heatmap(
        x=usage.columns, y=usage.index, z=np.where(fired, usage, np.nan).astype(np.float32), customdata=counted,
        colorscale=ROOT_SCALE, zmin=0, xgap=1, ygap=1, hoverongaps=False, colorbar=_bar(".0%"),
        hovertemplate="layer %{y}, expert %{x}<br>usage %{z:.2%}"
        "<br>%{customdata[0]:,} of %{customdata[1]:,} tokens<extra></extra>",
    )  # fmt: skip
    figure.add_heatmap(
        x=usage.columns, y=usage.index, z=np.where(fired, np.nan, 0).astype(np.float32), customdata=counted,
        colorscale=[[0, NEVER], [1, NEVER]], showscale=False, xgap=1, ygap=1, hoverongaps=False,
        hovertemplate="layer %{y}, expert %{x}<br>never fired in %{customdata[1]:,} tokens<extra></extra>",
    )  # fmt: skip
    return _as_map(figure)


def accuracy_map(part: Analysis) -> go.Figure:
    """Return the layer x expert map of shrunk accuracy, around that of all questions; blank without questions.

    Args:
        part: An analysis restricted to one setting.
    """
    shrunk = _grid(part, "shrunk")
    asked = _grid(part, "questions").to_numpy()
    names = ("questions", "accuracy", "shrunk_low", "shrunk_high")
    shown = np.stack([_grid(part, name).to_numpy(dtype=np.float32) for name in names], axis=-1)
    values = np.where(asked > 0, shrunk, np.nan).astype(np.float32)
    overall = _overall(part)
    reach = float(np.nanmax(np.abs(values - overall), initial=0.01))
    figure = _figure(_map_height(shrunk))
    figure.add_heatmap(
        x=shrunk.columns, y=shrunk.index, z=values, customdata=shown, colorscale=TWO_SIDED, hoverongaps=False,
        zmin=overall - reach, zmax=overall + reach, xgap=1, ygap=1, colorbar=_bar(".1%"),
        hovertemplate="layer %{y}, expert %{x}<br>shrunk %{z:.1%} [%{customdata[2]:.1%}, %{customdata[3]:.1%}]"
        "<br>raw %{customdata[1]:.1%}, n = %{customdata[0]:,} questions<extra></extra>",
    )  # fmt: skip
    return _as_map(figure)


def entropy_all(part: Analysis) -> go.Figure:
    """Return the entropy over all experts by layer.

    Args:
        part: An analysis restricted to one setting.
    """
    return _entropy(part, "entropy_all")


def entropy_topk(part: Analysis) -> go.Figure:
    """Return the entropy over the chosen experts by layer.

    Args:
        part: An analysis restricted to one setting.
    """
    return _entropy(part, "entropy_topk")


def weight_bars(part: Analysis) -> go.Figure:
    """Return the mean weights of the chosen experts, stacked by layer from the largest to the smallest.

    Args:
        part: An analysis restricted to one setting.
    """
    figure = _figure(340)
    ranks = int(part.weights["rank"].max())
    for rank, rows in part.weights.groupby("rank"):
        figure.add_bar(
            x=rows["layer"], y=rows["weight_mean"], customdata=rows["share_mean"], name=f"rank {rank}",
            marker={"color": SERIES[0], "line": {"color": CARD, "width": 1}},
            opacity=1 - 0.75 * (int(str(rank)) - 1) / max(1, ranks - 1),
            hovertemplate=f"layer %{{x}}, rank {rank}<br>weight %{{y:.4f}}"
            "<br>%{customdata:.1%} of the chosen experts' sum<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.25, showlegend=False)
    figure.update_yaxes(title="mean weight, summed over ranks", rangemode="tozero")
    return _by_layer(figure)


def accuracy_scatter(part: Analysis) -> go.Figure:
    """Return raw accuracy against usage, one point per expert that fired; flagged experts are marked.

    Args:
        part: An analysis restricted to one setting.
    """
    fired = part.experts[part.experts["questions"] > 0]
    figure = _figure(430)
    for flagged, name, look in (
        (False, "not flagged", {"color": SERIES[0], "size": 6, "opacity": 0.55}),
        (True, "flagged (adjusted p < 0.05)", {"color": FLAG, "size": 11, "symbol": "diamond"}),
    ):
        rows = fired[fired["flagged"].astype(bool) == flagged]
        names = ["layer", "expert", "questions", "accuracy_low", "accuracy_high", "p_adjusted"]
        figure.add_scatter(
            x=rows["usage"], y=rows["accuracy"], mode="markers", name=name, marker=look,
            customdata=rows[names].to_numpy(dtype=np.float32),
            hovertemplate="layer %{customdata[0]}, expert %{customdata[1]}<br>accuracy %{y:.1%} "
            "[%{customdata[3]:.1%}, %{customdata[4]:.1%}]<br>n = %{customdata[2]:,} questions, usage %{x:.2%}"
            "<br>adjusted p %{customdata[5]:.2g}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(_overall(part), line={"color": MUTED, "dash": "dot", "width": 1.5})
    figure.update_xaxes(title="usage: share of tokens that chose the expert", type="log", tickformat="~%", dtick=1)
    figure.update_yaxes(title="raw accuracy", tickformat=".0%")
    return figure


def sensitivity_bars(part: Analysis) -> go.Figure | None:
    """Return, for each small change of the input, the share of chosen experts that change and of letters that flip.

    Args:
        part: An analysis restricted to one setting.

    Returns:
        ``None`` if the setting was not measured under changed inputs.
    """
    if part.sensitivity.empty:
        return None
    routed = part.sensitivity[part.sensitivity["layer"] >= 0].groupby("change", sort=False)["changed_share"]
    letters = part.sensitivity[part.sensitivity["layer"] < 0].set_index("change").reindex(list(routed.groups))
    mean, span = routed.mean(), routed.agg(["min", "max"])
    figure = _figure(130 + 52 * len(mean))
    figure.add_bar(
        y=mean.index, x=mean, orientation="h", name="chosen experts that change, mean of layers",
        marker={"color": SERIES[0]}, customdata=span.to_numpy(dtype=np.float32),
        hovertemplate="%{y}<br>%{x:.1%} of chosen experts change<br>layers: %{customdata[0]:.1%} to "
        "%{customdata[1]:.1%}<extra></extra>",
    )  # fmt: skip
    flipped = letters["flipped_share"].astype(float)
    above, below = letters["flipped_high"] - flipped, flipped - letters["flipped_low"]
    figure.add_bar(
        y=letters.index, x=flipped, orientation="h", name="letters that flip, 95 % interval",
        marker={"color": SERIES[1]}, customdata=letters["questions"],
        error_x={"array": above, "arrayminus": below, "color": INK, "thickness": 1.3, "width": 4},
        hovertemplate="%{y}<br>%{x:.1%} of letters flip, n = %{customdata:,}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    return figure


FIGURES: dict[str, Callable[[Analysis], go.Figure | None]] = {
    "usage": usage_map,
    "accuracy": accuracy_map,
    "entropy_all": entropy_all,
    "entropy_topk": entropy_topk,
    "weights": weight_bars,
    "scatter": accuracy_scatter,
    "sensitivity": sensitivity_bars,
}
"""Figures by the name the page asks for them."""


def _entropy(part: Analysis, name: str) -> go.Figure:
    layers, mean, std = part.layers["layer"], part.layers[f"{name}_mean"], part.layers[f"{name}_std"]
    figure = _figure(340)
    edge: dict[str, Any] = {"x": layers, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(**edge, y=mean + std, showlegend=False)
    figure.add_scatter(**edge, y=mean - std, fill="tonexty", fillcolor="var(--wash)", name="one sd to either side")
    figure.add_scatter(
        x=layers, y=mean, mode="lines+markers", name="mean", line={"color": SERIES[0], "width": 2.5},
        customdata=np.stack([std, part.layers[f"{name}_share"]], axis=-1),
        hovertemplate="layer %{x}<br>%{y:.3f} nats, sd %{customdata[0]:.3f}<br>%{customdata[1]:.1%} of the maximum"
        "<extra></extra>",
    )  # fmt: skip
    if f"{name}_base" in part.layers and part.layers[f"{name}_base"].notna().any():
        figure.add_scatter(
            x=layers, y=part.layers[f"{name}_base"], mode="lines", name="pretrained router",
            line={"color": SERIES[1], "width": 2, "dash": "dash"},
            hovertemplate="layer %{x}<br>pretrained router: %{y:.3f} nats<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=layers, y=mean / part.layers[f"{name}_share"], mode="lines", name="maximum", hoverinfo="skip",
        line={"color": MUTED, "dash": "dot", "width": 1.5},
    )  # fmt: skip
    figure.update_yaxes(title="entropy, nats")
    return _by_layer(figure)


def _figure(height: int) -> go.Figure:
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "tickcolor": GRID, "tickfont": {"color": MUTED}}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 30, "b": 46},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": INK, "size": 12, "family": "system-ui, Segoe UI, Roboto, sans-serif"},
            "hoverlabel": {"bgcolor": CARD, "bordercolor": MUTED, "font": {"color": INK}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def _as_map(figure: go.Figure) -> go.Figure:
    figure.update_xaxes(title="expert", showgrid=False, showline=False)
    figure.update_yaxes(title="layer", showgrid=False, autorange="reversed")
    return figure.update_layout(margin={"l": 56, "r": 10, "t": 8, "b": 46})


def _by_layer(figure: go.Figure) -> go.Figure:
    return figure.update_xaxes(title="layer", showgrid=False)


def _bar(form: str) -> dict[str, Any]:
    return {"thickness": 10, "outlinewidth": 0, "tickformat": form, "tickfont": {"color": MUTED}, "nticks": 6}


def _map_height(grid: pd.DataFrame) -> int:
    return 80 + max(150, 22 * len(grid))


def _grid(part: Analysis, column: str) -> pd.DataFrame:
    return part.experts.pivot(index="layer", columns="expert", values=column).astype(float)


def _overall(part: Analysis) -> float:
    first = part.subjects[part.subjects["layer"] == part.subjects["layer"].min()]
    return float(first["correct"].sum() / max(1, first["questions"].sum()))
