"""Charts drawn by matplotlib, for PNG files and loggers, in the palette's light colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from moe_tune.reports.chart import Axis, Bars, Chart, Heat, Line, Mark, Points, Rule
from moe_tune.reports.palette import EVEN_STOPS, LIGHT, Stops

DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":"}
SYMBOLS = {"circle": "o", "hollow": "o", "diamond": "D", "tick": "|"}


def draw(axes: Axes, chart: Chart) -> None:
    """Draw a chart between axes."""
    for mark in chart.marks:
        _draw(axes, mark)
    _label(axes, chart.x, "x")
    _label(axes, chart.y, "y")
    axes.set_title(chart.title, fontsize=10)
    heat = next((mark for mark in chart.marks if isinstance(mark, Heat)), None)
    if heat is not None:
        names = chart.y.ticks or {}
        places = [int(np.flatnonzero(np.asarray(heat.layers) == layer)[0]) for layer in names]
        axes.set_yticks(places, list(names.values()), fontsize=8)
        axes.set_ylim(len(heat.layers) - 0.5, -0.5)
        axes.xaxis.labelpad = 1
    elif axes.get_legend_handles_labels()[0]:
        # Below the axis and its title, where it hides nothing; looking for room inside is slow, too.
        inches = axes.get_window_extent().height / axes.figure.dpi
        axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.48 / inches), ncols=2, fontsize=8, frameon=False,
            borderaxespad=0, columnspacing=1.2,
        )  # fmt: skip


def map_picture(rows: Sequence[tuple[Chart, Chart]]) -> Figure:
    """Return rows of a heat map, what goes beside it by layer, and its colour scale; placed by hand, as layout engines
    draw everything twice.
    """
    layers = len(next(mark for mark in rows[0][0].marks if isinstance(mark, Heat)).layers)
    height, above, below = 0.16 * layers + 0.5, 0.3, 0.45
    row_height = height + above + below
    full = len(rows) * row_height
    figure = Figure(figsize=(10, full))
    for row, (chart, beside) in enumerate(rows):
        bottom, tall = (full - (row + 1) * row_height + below) / full, height / full
        heat, side, scale = (
            figure.add_axes((left, bottom, wide, tall)) for left, wide in ((0.05, 0.76), (0.825, 0.1), (0.94, 0.012))
        )
        draw(heat, chart)
        draw(side, beside)
        side.set_title(beside.title, fontsize=8)
        side.xaxis.label.set_fontsize(8)
        mark = next(mark for mark in chart.marks if isinstance(mark, Heat))
        ticks = [mark.low + place * (mark.high - mark.low) for place, _ in mark.stops]
        colour_scale(scale, mark.stops, mark.low, mark.high, ticks, mark.form)
    return figure


def token_maps(rows: Sequence[Sequence[Chart]]) -> Figure:
    """Return rows of heat maps that share their colours, the colour scale at the right end of each row."""
    heats = [[next(mark for mark in chart.marks if isinstance(mark, Heat)) for chart in row] for row in rows]
    height = 0.17 * len(heats[0][0].layers) + 0.7
    across = len(rows[0])
    figure = Figure(figsize=(5.2 * across + 1, height * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), across + 1, width_ratios=[*[1] * across, 0.03])
    for row, charts in enumerate(rows):
        for column, chart in enumerate(charts):
            axes = figure.add_subplot(grid[row, column])
            draw(axes, chart)
            if column:
                axes.tick_params(labelleft=False)
        mark = heats[row][0]
        ticks = [mark.low + place * (mark.high - mark.low) for place, _ in mark.stops]
        scale = figure.add_subplot(grid[row, across])
        colour_scale(scale, mark.stops, mark.low, mark.high, ticks, mark.form)
    return figure


def colour_scale(axes: Axes, stops: Stops, low: float, high: float, ticks: Sequence[float], form: str) -> None:
    """Draw a colour scale as an upright bar, evenly in its colours."""
    # Scales by the root are drawn evenly in the root, so that the colours of what is rare are not squeezed.
    along = np.interp(np.linspace(0, 1, 64), np.linspace(0, 1, len(stops)), [place for place, _ in stops])
    axes.imshow(_colours(stops)(along)[:, None], aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    shares = [(tick - low) / (high - low) if high > low else 0.0 for tick in ticks]
    places = np.interp(shares, [place for place, _ in stops], np.linspace(0, 1, len(stops)))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(list(places), [format(tick, form) for tick in ticks], fontsize=8)


def _draw(axes: Axes, mark: Mark) -> None:
    match mark:
        case Heat():
            axes.imshow(_image(mark), aspect="auto", interpolation="nearest")
        case Rule():
            line, span = (axes.axvline, axes.axvspan) if mark.upright else (axes.axhline, axes.axhspan)
            if mark.until is None:
                line(mark.at, color=LIGHT[mark.colour], linewidth=1, linestyle=":", label=mark.name or None)
            else:
                span(mark.at, mark.until, color=LIGHT[mark.colour], linewidth=0, label=mark.name or None)
        case Bars():
            lay = axes.barh if mark.lying else axes.bar
            lay(mark.place, mark.length, 0.8, color=LIGHT[mark.colour], alpha=mark.opacity, label=mark.name or None)
            if mark.ends is not None:
                along: Any = axes.hlines if mark.lying else axes.vlines
                along(mark.place, *mark.ends, color=LIGHT["ink"], linewidth=1.2)
        case Line():
            colour = LIGHT[mark.colour]
            if mark.reach is not None:
                y, reach = np.asarray(mark.y), np.asarray(mark.reach)
                axes.fill_between(mark.x, y - reach, y + reach, color=colour, alpha=0.12, linewidth=0)
            axes.plot(
                mark.x, mark.y, DASHES[mark.dash], color=colour, linewidth=mark.width, label=mark.name or None,
                marker="o" if mark.marked else "", markersize=4,
            )  # fmt: skip
        case Points():
            _points(axes, mark)


def _points(axes: Axes, mark: Points) -> None:
    if mark.ends is not None:
        axes.hlines(mark.y, *mark.ends, color=LIGHT["ink"], linewidth=1.2)
    look: dict[str, Any] = {"s": 0.45 * mark.size**2, "marker": SYMBOLS[mark.symbol], "label": mark.name or None}
    colour = LIGHT[mark.colour]
    if mark.shade is not None:
        norm = Normalize(np.min(mark.shade), np.max(mark.shade))
        look |= {"c": _colours(EVEN_STOPS)(norm(np.asarray(mark.shade))), "linewidth": 0}
    elif mark.symbol == "hollow":
        look |= {"facecolor": "none", "edgecolor": colour, "linewidth": 0.8}
    else:
        look["color"] = colour
    axes.scatter(mark.x, mark.y, **look)
    for x, y, text in zip(mark.x, mark.y, mark.texts or [], strict=False):
        axes.annotate(text, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)


def _image(heat: Heat) -> Any:
    norm = Normalize(heat.low, heat.high)
    image_LE4 = np.array(_colours(heat.stops)(norm(np.nan_to_num(heat.value_LE, nan=heat.low))))
    for blank in heat.blanks:
        image_LE4[blank.cells_LE] = to_rgba(LIGHT[blank.colour])
    return image_LE4


def _label(axes: Axes, axis: Axis, which: str) -> None:
    own = axes.xaxis if which == "x" else axes.yaxis
    own.set_label_text(axis.title)
    if axis.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        own.set_minor_locator(NullLocator())
    if axis.ticks is not None:
        own.set_ticks(list(axis.ticks), labels=list(axis.ticks.values()))
    elif axis.form:
        own.set_major_formatter(lambda value, _: format(value, axis.form))
    if axis.ends is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*axis.ends)


def _colours(stops: Stops) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("stops", [(place, LIGHT[colour]) for place, colour in stops])
