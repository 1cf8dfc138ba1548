"""The report's figures as inline SVG that takes its colours from the page, so that it reads in light and dark."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moe_tune.compare.comparison import Arm, Comparison
from moe_tune.compare.table import points
from moe_tune.stats.decision import MARGIN

# Stand-ins that matplotlib can draw with; the SVG gets the page's CSS variables in their place.
INK, MUTED, GRID, BAND, CARD = "#a00010", "#a00011", "#a00012", "#a00013", "#a00014"
SERIES = [f"#a0000{i}" for i in range(1, 9)]
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", BAND: "--band", CARD: "--card"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)
}
USAGE_RGB = (0.165, 0.471, 0.839)
DASHES = ["-", (0, (4, 2)), (0, (1, 1.5))]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def forest_plot(comparison: Comparison) -> str:
    """Return the differences to the baseline with 95 % intervals, one panel per split.

    Args:
        comparison: A comparison with at least one arm beside the baseline.
    """
    arms, splits = comparison.challengers, comparison.splits
    with mpl.rc_context(STYLE | {"svg.hashsalt": "forest"}):
        figure = Figure(figsize=(9.2, 1.0 + 0.36 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for axes, (split, label) in zip(panels, splits.items(), strict=True):
            axes.axvspan(-100 * MARGIN, 100 * MARGIN, color=BAND, linewidth=0)
            axes.axvline(0, color=MUTED, linewidth=1)
            for row, arm in enumerate(arms):
                result = arm.results[split]
                decided = result.decision in ("improved", "worse")
                low, high = (100 * end for end in result.ci95)
                axes.plot([low, high], [row, row], color=SERIES[0], linewidth=1.8, solid_capstyle="round")
                fill = SERIES[0] if decided else CARD
                for seed_diff in result.seed_diffs if len(result.seeds) > 1 else ():
                    axes.plot(100 * seed_diff, row + 0.24, "|", color=MUTED, markersize=4)
                axes.plot(100 * result.diff, row, "o", color=SERIES[0], markerfacecolor=fill, markersize=6.5)
                axes.annotate(
                    points(result.diff), (100 * result.diff, row), (0, 7), textcoords="offset points",
                    ha="center", fontsize=8, color=INK,
                )  # fmt: skip
            axes.set_title(label)
            axes.set_xlabel(f"points against {comparison.baseline}")
            axes.set_ylim(len(arms) - 0.45, -0.75)
            axes.margins(x=0.08)
            _grid(axes, "x")
        panels[0].set_yticks(range(len(arms)), [arm.name for arm in arms])
        return _svg(figure, "Differences to the baseline with 95 % intervals")


def entropy_lines(comparison: Comparison, split: str) -> str | None:
    """Return the entropy by layer of every arm: over the chosen experts, and over all.

    Args:
        comparison: The comparison.
        split: One of its splits.

    Returns:
        ``None`` if no arm recorded routing at the answer position.
    """
    drawn = [(arm, routing) for arm in comparison.arms.values() if (routing := arm.routing[split]) is not None]
    if not drawn:
        return None
    first = drawn[0][1]
    every_L = np.full(len(first.layers), np.log(first.usage_LE.shape[1]))
    with mpl.rc_context(STYLE | {"svg.hashsalt": "entropy"}):
        figure = Figure(figsize=(9.2, 3.3 + 0.16 * len(drawn)), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, values, title in (
            (panels[0], "entropy_topk_L", "Over the chosen experts"),
            (panels[1], "entropy_all_L", f"Over all {first.usage_LE.shape[1]} experts"),
        ):
            for place, (arm, routing) in enumerate(drawn):
                base = arm.name == comparison.baseline
                axes.plot(
                    routing.layers, getattr(routing, values), marker="o", markersize=4, label=arm.name,
                    color=INK if base else SERIES[(place - 1) % len(SERIES)],
                    linewidth=2.4 if base else 1.6, linestyle="-" if base else DASHES[(place - 1) // len(SERIES) % 3],
                )  # fmt: skip
                most_L = every_L if values == "entropy_all_L" else routing.entropy_topk_most_L
                axes.plot(routing.layers, most_L, color=MUTED, linewidth=1, linestyle=":")
            axes.set_title(f"{title} (dotted: the most there can be, {most_L.max():.2f})")
            axes.set_xlabel("layer")
            axes.set_xticks(first.layers if len(first.layers) <= 16 else first.layers[::2])
            _grid(axes, "y")
        panels[0].set_ylabel("entropy, nats")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8.5)
        return _svg(figure, "Entropy of the router by layer")


def usage_maps(comparison: Comparison, split: str) -> str | None:
    """Return one layer x expert map per arm: the share of questions routed to each expert, blank where none was.

    Args:
        comparison: The comparison.
        split: One of its splits.

    Returns:
        ``None`` if no arm recorded routing at the answer position.
    """
    drawn = [(arm, routing) for arm in comparison.arms.values() if (routing := arm.routing[split]) is not None]
    if not drawn:
        return None
    top = max(float(routing.usage_LE.max()) for _, routing in drawn)
    heights = [0.14 * len(routing.layers) for _, routing in drawn]
    with mpl.rc_context(STYLE | {"svg.hashsalt": "usage"}):
        figure = Figure(figsize=(9.2, sum(heights) + 0.62 * len(heights) + 0.7), layout="constrained")
        panels = figure.subplots(
            len(drawn) + 1, 1, squeeze=False, gridspec_kw={"height_ratios": [*heights, 0.12]}
        )[:, 0]  # fmt: skip
        for axes, (arm, routing) in zip(panels[:-1], drawn, strict=True):
            layers, experts = routing.usage_LE.shape
            axes.imshow(
                _shade(routing.usage_LE / top), aspect="auto", interpolation="none",
                extent=(-0.5, experts - 0.5, layers - 0.5, -0.5),
            )  # fmt: skip
            axes.set_title(f"{arm.name}: {100 * routing.never_share:.0f} % never activated", pad=4)
            step = max(1, layers // 4)
            axes.set_yticks(range(0, layers, step), [str(layer) for layer in routing.layers[::step]])
            axes.set_ylabel("layer")
            axes.tick_params(length=2)
            axes.spines[:].set_visible(True)
        panels[-2].set_xlabel("expert")
        scale = panels[-1]
        scale.imshow(
            _shade(np.linspace(0.001, 1, 128)[None]), aspect="auto", interpolation="none", extent=(0, 100 * top, 0, 1)
        )
        scale.set_yticks([])
        scale.set_xlabel("% of questions routed to the expert (blank: never)")
        scale.spines[:].set_visible(True)
        return _svg(figure, "Usage of experts by layer")


def subject_bars(arm: Arm, split: str) -> str | None:
    """Return an arm's pooled difference by subject with 95 % intervals; a tick marks the raw difference.

    Args:
        arm: The arm.
        split: One of its splits.

    Returns:
        ``None`` if the differences could not be pooled: too few subjects, or no discordant question.
    """
    found = arm.subjects[split]
    if found is None:
        return None
    table = found.table
    rows = np.arange(len(table))
    reach = [100 * (table["pooled"] - table["low"]), 100 * (table["high"] - table["pooled"])]
    with mpl.rc_context(STYLE | {"svg.hashsalt": "subjects"}):
        figure = Figure(figsize=(4.6, 0.8 + 0.24 * len(table)), layout="constrained")
        axes = figure.subplots()
        axes.barh(rows, 100 * table["pooled"], height=0.62, color=SERIES[0], alpha=0.55, linewidth=0)
        axes.errorbar(100 * table["pooled"], rows, xerr=reach, fmt="none", ecolor=INK, elinewidth=1.2)
        axes.plot(100 * table["diff"], rows, "|", color=SERIES[1], markersize=9, markeredgewidth=1.8)
        axes.axvline(0, color=MUTED, linewidth=1)
        names = table["subject"].str.replace("_", " ") + "  (" + table["n"].astype(str) + ")"
        axes.set_yticks(rows, names.tolist(), fontsize=8.5)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_xlabel("points against the baseline")
        _grid(axes, "x")
        return _svg(figure, f"Differences by subject of {arm.name}")


def _shade(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """One hue whose opacity grows with the root of the share, so that it fades into any page; nothing at 0."""
    image = np.empty((*share.shape, 4))
    image[..., :3] = USAGE_RGB
    image[..., 3] = np.where(share > 0, 0.12 + 0.88 * np.sqrt(share), 0)
    return image


def _grid(axes: Axes, axis: str) -> None:
    axes.grid(axis="x" if axis == "x" else "y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left" if axis == "x" else "bottom"].set_visible(axis == "y")


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = text.replace("font-family: 'DejaVu Sans'; ", "")  # measured with it, drawn with the page's own
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="([\d.]+)pt"', r'<svg \1\2style="max-width:\3pt"', text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
