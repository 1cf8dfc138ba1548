"""The four figures of an evaluation: usage and accuracy by layer and expert, entropy by layer, accuracy by usage."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from moe_tune.reports import routing_charts as routing
from moe_tune.reports.chart import Axis, Bars, Chart, Line, Mark
from moe_tune.reports.palette import EVEN_STOPS, SERIES
from moe_tune.reports.picture_drawer import colour_scale, draw, map_picture
from moe_tune.stats.ratios import FEWEST, Floats


def evidence_figures(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> dict[str, Figure]:
    """Return the figures of an evaluation by name; layers whose routing was not seen are left out."""
    seen = frame[frame["tokens"] > 0]
    base = seen.iloc[:0] if reference is None else reference[reference["tokens"] > 0]
    if set(base["layer"]) != set(seen["layer"]):  # kept from an evaluation that saw fewer
        base = base.iloc[:0]
    drawers = {"usage": _usage, "accuracy": _accuracy, "entropy": _entropy, "scatter": _scatter}
    return {name: drawn(seen, split, base) for name, drawn in drawers.items()}


def _usage(frame: pd.DataFrame, split: str, reference: pd.DataFrame) -> Figure:
    """A map per scope; beside it each layer's share of experts that never fired."""
    rows = []
    for scope, part in frame.groupby("scope", sort=False):
        usage_LE, base = routing.grid(part, "usage"), reference[reference["scope"] == scope]
        never_L = (usage_LE == 0).mean(-1)
        title = f"{split}, scope {scope}: share of tokens per expert (sand: never, {never_L.mean():.0%})"
        # All of the tokens at the upper end, so that epochs and runs can be compared.
        tokens_L = part.groupby("layer")["tokens"].first().to_numpy()
        chart = routing.usage_chart(routing.layer_names(part), usage_LE, tokens_L, 1, title)
        base_L = (routing.grid(base, "usage") == 0).mean(-1) if len(base) else None
        rows.append((chart, _beside(never_L, base_L, "never")))
    return map_picture(rows)


def _accuracy(frame: pd.DataFrame, split: str, reference: pd.DataFrame) -> Figure:
    """A map of shrunk accuracy; beside it its range within each layer."""
    part, base = (table[table["scope"] == "answer"] for table in (frame, reference))
    title = f"{split}, scope answer: shrunk accuracy (associational; grey: under {FEWEST} questions, white: never)"
    beside = _beside(_spread(routing.trusted(part)), _spread(routing.trusted(base)) if len(base) else None, "range")
    return map_picture([(routing.accuracy_chart(part, _pooled(part), title), beside)])


def _entropy(frame: pd.DataFrame, split: str, reference: pd.DataFrame) -> Figure:
    """Entropy by layer over all experts and over the chosen ones, a colour per scope; narrow, from 0 to the maximum."""
    figure = Figure(figsize=(11, 4.2))
    shape = {"width_ratios": [3, 1, 3, 1], "left": 0.06, "right": 0.99, "bottom": 0.33, "top": 0.92, "wspace": 0.3}
    panels = figure.subplots(1, 4, gridspec_kw=shape)
    for place, kind in enumerate(("all", "topk")):
        curves = []
        for colour, scope in zip(SERIES, frame["scope"].unique(), strict=False):
            layers, base = (table[table["scope"] == scope].groupby("layer").first() for table in (frame, reference))
            mean_L, deviation_L = layers[f"entropy_{kind}_mean"], layers[f"entropy_{kind}_std"]
            even_L = mean_L * 0 + np.log(frame["expert"].nunique())
            most_L = even_L if kind == "all" else layers["entropy_topk_most"]
            name = f"scope {scope}; band: one sd"
            curves.append(routing.EntropyCurve(name, layers.index, mean_L, most_L, deviation_L, colour))
            if len(base):
                mean_L, name = base[f"entropy_{kind}_mean"], f"pretrained router, scope {scope}"
                curves.append(routing.EntropyCurve(name, base.index, mean_L, colour=colour, dash="dash"))
        title = f"{split}: entropy over {'all' if kind == 'all' else 'the chosen'} experts"
        zoomed = routing.entropy_chart(curves, title)
        draw(panels[2 * place], zoomed)
        draw(panels[2 * place + 1], routing.from_zero(zoomed, "from 0", narrow=True))
    return figure


def _scatter(frame: pd.DataFrame, split: str, reference: pd.DataFrame) -> Figure:
    """Accuracy by usage; the colour is the layer."""
    part, base = (table[table["scope"] == "answer"] for table in (frame, reference))
    figure = Figure(figsize=(8, 5.2))
    overall, title = _pooled(base) if len(base) else None, f"{split}: experts, associational"
    draw(figure.add_axes((0.1, 0.23, 0.82, 0.7)), routing.scatter_chart(part, _pooled(part), title, overall))
    scale = figure.add_axes((0.935, 0.23, 0.015, 0.7))
    first, last = float(part["layer"].min()), float(part["layer"].max())
    colour_scale(scale, EVEN_STOPS, first, last, [first, last], ".0f")
    scale.set_title("layer", fontsize=8)
    return figure


def _beside(value_L: Floats, base_L: Floats | None, name: str) -> Chart:
    """A bar per layer from 0 to the largest, and the pretrained router's values."""
    places = np.arange(len(value_L))
    marks: list[Mark] = [Bars(places, value_L, opacity=0.6, lying=True)]
    if base_L is not None:
        marks.append(Line(base_L, places, "", "ink", "dash", 1.2))
    most = float(max(value_L.max(), 0 if base_L is None else base_L.max()))
    x = Axis(f"0 to {most:.1%}", ticks={}, ends=(0, max(1.05 * most, 0.01)))
    y = Axis(ticks={}, ends=(len(value_L) - 0.5, -0.5))
    return Chart(marks, x, y, name if base_L is None else f"{name} (dashed: pretrained)")


def _spread(trusted_LE: Floats) -> Floats:
    """Largest minus smallest of each layer, 0 where fewer than two are known."""
    known_LE = ~np.isnan(trusted_LE)
    highest_L = trusted_LE.max(-1, initial=-np.inf, where=known_LE)
    lowest_L = trusted_LE.min(-1, initial=np.inf, where=known_LE)
    spread_L: Floats = np.maximum(highest_L - lowest_L, 0)
    return spread_L


def _pooled(part: pd.DataFrame) -> float:
    """Accuracy over all pairs of question and expert: the split's, where every question has K experts."""
    return float(part["correct"].sum() / max(1, part["questions"].sum()))
