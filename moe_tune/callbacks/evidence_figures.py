"""The four figures of an evaluation: usage and accuracy by layer and expert, entropy by layer, accuracy by usage."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from moe_tune.stats.ratios import FEWEST, Floats

NEVER, FEW, LINE, REFERENCE = "white", "#b8b8b8", "#3465a4", "#2e3436"
SCOPE_COLOURS = ("#3465a4", "#ce5c00", "#4e9a06", "#75507b", "#c17d11", "#a40000")


def evidence_figures(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> dict[str, Figure]:
    """Return the figures of an evaluation by name; layers whose routing was not seen are left out.

    Args:
        frame: A split's routing table with estimates.
        split: Its name, for the titles.
        reference: The pretrained router's table on the same questions, drawn dashed; ``None`` draws none.
    """
    seen = frame[frame["tokens"] > 0]
    base = None if reference is None else reference[reference["tokens"] > 0]
    return {
        "usage": usage_figure(seen, split, base),
        "accuracy": accuracy_figure(seen, split, base),
        "entropy": entropy_figure(seen, split, base),
        "scatter": scatter_figure(seen, split, base),
    }


def usage_figure(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> Figure:
    """Return a heat map per scope of the share of tokens each expert gets; beside it, the share of experts with none.

    Args:
        frame: A split's routing table with estimates.
        split: Its name, for the title.
        reference: The pretrained router's table; its share of experts without tokens is the dashed line.
    """
    scopes = list(frame["scope"].unique())
    figure, rows = _maps(len(scopes), frame["layer"].nunique())
    # The root of the share, so that an even load of 1 in 8 and an expert that takes all can be told apart.
    norm, colours = PowerNorm(0.5, 0, 1), mpl.colormaps["viridis"]
    for (heat, side, scale), scope in zip(rows, scopes, strict=True):
        part, base = _of_scope(frame, scope), _of_scope(reference, scope)
        assert part is not None
        usage_LE = _grid(part, "usage")
        image_LE4 = np.array(colours(norm(usage_LE)))
        # Experts that never fire stay white, so that they can be told from those that rarely do.
        image_LE4[usage_LE == 0] = to_rgba(NEVER)
        never_L = (usage_LE == 0).mean(-1)
        title = f"{split}, scope {scope}: share of tokens per expert (white: never, {never_L.mean():.0%})"
        _heat_map(heat, image_LE4, part["layer"].unique(), title)
        _by_layer(side, never_L, None if base is None else (_grid(base, "usage") == 0).mean(-1), "never")
        _colour_scale(scale, norm, colours, [0, 0.125, 0.5, 1], "{:.0%}")
    return figure


def accuracy_figure(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> Figure:
    """Return a heat map of each expert's shrunk accuracy at the answer scope; beside it, its range within the layer.

    Args:
        frame: A split's routing table with estimates.
        split: Its name, for the title.
        reference: The pretrained router's table; its range is the dashed line.
    """
    part, base = _of_scope(frame, "answer"), _of_scope(reference, "answer")
    assert part is not None
    figure, ((heat, side, scale),) = _maps(1, part["layer"].nunique())
    questions_LE, trusted_LE = _grid(part, "questions"), _trusted(part)
    middle = _pooled(part)
    # At least 2 points either way: differences within the noise shall not look like differences.
    reach = max(0.02, float(np.max(np.abs(trusted_LE - middle), initial=0, where=~np.isnan(trusted_LE))))
    norm, colours = Normalize(middle - reach, middle + reach), mpl.colormaps["plasma"]
    image_LE4 = np.array(colours(norm(np.nan_to_num(trusted_LE, nan=middle))))
    image_LE4[questions_LE < FEWEST] = to_rgba(FEW)
    image_LE4[questions_LE == 0] = to_rgba(NEVER)
    title = f"{split}, scope answer: shrunk accuracy (associational; grey: under {FEWEST} questions, white: never)"
    _heat_map(heat, image_LE4, part["layer"].unique(), title)
    _by_layer(side, _spread(trusted_LE), None if base is None else _spread(_trusted(base)), "range")
    _colour_scale(scale, norm, colours, [middle - reach, middle, middle + reach], "{:.1%}")
    return figure


def entropy_figure(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> Figure:
    """Return the gate's entropy by layer, over all experts and over the chosen ones, with a band of one deviation.

    Args:
        frame: A split's routing table with estimates.
        split: Its name, for the title.
        reference: The pretrained router's table; its entropies are the dashed lines.
    """
    figure = Figure(figsize=(10, 3.6))
    panels = figure.subplots(1, 2, gridspec_kw={"left": 0.06, "right": 0.985, "bottom": 0.14, "top": 0.9})
    for axes, kind in ((panels[0], "all"), (panels[1], "topk")):
        for colour, scope in zip(SCOPE_COLOURS, frame["scope"].unique(), strict=False):
            for table, style in ((frame, "-o"), (reference, "--")):
                part = _of_scope(table, scope)
                if part is None:
                    continue
                layers = part.groupby("layer").first()
                mean_L, std_L = layers[f"entropy_{kind}_mean"], layers[f"entropy_{kind}_std"]
                name = f"scope {scope}" if table is frame else "pretrained router"
                axes.plot(layers.index, mean_L, style, color=colour, linewidth=1.4, markersize=4, label=name)
                if table is frame:
                    axes.fill_between(layers.index, mean_L - std_L, mean_L + std_L, color=colour, alpha=0.12)
                    most_L = (
                        layers["entropy_topk_most"] if kind == "topk" else 0 * mean_L + np.log(part["expert"].nunique())
                    )
                    axes.plot(layers.index, most_L, color=REFERENCE, linewidth=0.8, linestyle=":")
        axes.set_title(f"{split}: entropy over {'all' if kind == 'all' else 'the chosen'} experts, nats", fontsize=10)
        axes.set_xlabel(f"layer (dotted: the most there can be, {most_L.max():.2f})")
        axes.set_xticks(_some(frame["layer"].unique())[1])
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def scatter_figure(frame: pd.DataFrame, split: str, reference: pd.DataFrame | None) -> Figure:
    """Return each expert's raw accuracy against its usage at the answer scope, with what chance alone would spread.

    The band holds about 95 % of experts if each answered like the split; it stands on the normal approximation.

    Args:
        frame: A split's routing table with estimates.
        split: Its name, for the title.
        reference: The pretrained router's table; its accuracy is the dashed line.
    """
    part, base = _of_scope(frame, "answer"), _of_scope(reference, "answer")
    assert part is not None
    figure = Figure(figsize=(8, 4.6))
    axes = figure.add_axes((0.08, 0.12, 0.84, 0.8))
    few = part[part["questions"].between(1, FEWEST - 1)]
    trusted = part[part["questions"] >= FEWEST]
    layers = Normalize(part["layer"].min(), part["layer"].max())
    colours = mpl.colormaps["viridis"]
    axes.scatter(few["usage"], few["accuracy"], s=14, facecolor="none", edgecolor=FEW, linewidth=0.8)
    axes.scatter(trusted["usage"], trusted["accuracy"], s=16, c=colours(layers(trusted["layer"])), linewidth=0)
    pooled, questions = _pooled(part), float(part["tokens"].max())
    share = np.geomspace(1 / questions, 1, 60)
    half = 1.96 * np.sqrt(pooled * (1 - pooled) / (share * questions))
    axes.fill_between(share, pooled - half, pooled + half, color=LINE, alpha=0.1, linewidth=0)
    axes.axhline(pooled, color=LINE, linewidth=1)
    if base is not None:
        axes.axhline(_pooled(base), color=REFERENCE, linewidth=1.2, linestyle="--")
    axes.set_xscale("log")
    ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.1, 1) if tick >= 1 / questions]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("share of questions routed to the expert")
    axes.set_ylabel("accuracy of these questions")
    dashed = "" if base is None else "; dashed: pretrained"
    axes.set_title(f"{split}: experts, associational (hollow: under {FEWEST} questions{dashed})", fontsize=10)
    scale = figure.add_axes((0.935, 0.12, 0.015, 0.8))
    _colour_scale(scale, layers, colours, [part["layer"].min(), part["layer"].max()], "{:.0f}")
    scale.set_title("layer", fontsize=8)
    return figure


def _of_scope(frame: pd.DataFrame | None, scope: str) -> pd.DataFrame | None:
    """The rows of a scope; ``None`` where there are none."""
    return None if frame is None or scope not in set(frame["scope"]) else frame[frame["scope"] == scope]


def _grid(part: pd.DataFrame, name: str) -> Floats:
    values_LE: Floats = part.pivot(index="layer", columns="expert", values=name).to_numpy(np.float64)
    return values_LE


def _trusted(part: pd.DataFrame) -> Floats:
    """Shrunk accuracy of the experts with enough questions, (L, E), NaN for the others."""
    return np.where(_grid(part, "questions") >= FEWEST, _grid(part, "shrunk"), np.nan)


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


def _maps(rows: int, layers: int) -> tuple[Figure, list[tuple[Axes, Axes, Axes]]]:
    """Rows of heat map, bars by layer and colour scale; placed by hand, as layout engines draw everything twice."""
    height, above, below = 0.16 * layers + 0.5, 0.3, 0.45
    row_height = height + above + below
    full = rows * row_height
    figure = Figure(figsize=(10, full))
    placed = []
    for row in range(rows):
        bottom, tall = (full - (row + 1) * row_height + below) / full, height / full
        axes = [
            figure.add_axes((left, bottom, wide, tall)) for left, wide in ((0.05, 0.76), (0.825, 0.1), (0.94, 0.012))
        ]
        placed.append((axes[0], axes[1], axes[2]))
    return figure, placed


def _heat_map(axes: Axes, image_LE4: Floats, layers: "np.ndarray[tuple[int], np.dtype[np.int64]]", title: str) -> None:
    axes.imshow(image_LE4, aspect="auto", interpolation="nearest")
    places, names = _some(layers)
    axes.set_yticks(places, [str(name) for name in names], fontsize=8)
    axes.set_ylabel("layer")
    axes.set_xlabel("expert", labelpad=1)
    axes.set_title(title, fontsize=10)


def _by_layer(axes: Axes, value_L: Floats, base_L: Floats | None, name: str) -> None:
    axes.barh(range(len(value_L)), value_L, color=LINE, alpha=0.6, height=0.8)
    if base_L is not None:
        axes.plot(base_L, range(len(base_L)), "--", color=REFERENCE, linewidth=1.2)
    axes.set_ylim(len(value_L) - 0.5, -0.5)
    most = float(max(value_L.max(), 0 if base_L is None else base_L.max()))
    axes.set_xlim(0, max(1.05 * most, 0.01))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"0 to {most:.1%}", fontsize=8)
    axes.set_title(name if base_L is None else f"{name} (dashed: pretrained)", fontsize=8)


def _colour_scale(axes: Axes, norm: Normalize, colours: Colormap, ticks: list[float], style: str) -> None:
    axes.imshow(np.array(colours(np.linspace(0, 1, 64)))[:, None], aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([float(norm(tick)) for tick in ticks], [style.format(tick) for tick in ticks], fontsize=8)


def _some(layers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[list[int], list[int]]:
    """Places and names of at most 9 layers to label: ticks are what drawing takes longest for."""
    places = list(range(0, len(layers), -(-len(layers) // 9)))
    return places, [int(layers[place]) for place in places]
