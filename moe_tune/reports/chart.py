"""A chart as its marks, scales and labels; colours are names of the palette, and no drawing library is known here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from moe_tune.reports.palette import Stops

if TYPE_CHECKING:
    import pandas as pd

Values: TypeAlias = Union[Sequence[float], NDArray[Any], "pd.Series[Any]", "pd.Index[Any]"]
Dash = Literal["solid", "dash", "dot"]


@dataclass(frozen=True, slots=True, eq=False)
class Hover:
    """What a page says of the mark under the pointer.

    Args:
        text: plotly's template of it.
        shown: The values that the template calls ``customdata``, one row per mark.
    """

    text: str = ""
    shown: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line through values, with a band of ``reach`` to either side where it has one."""

    x: Values
    y: Values
    name: str = ""
    colour: str = "series-1"
    dash: Dash = "solid"
    width: float = 1.6
    marked: bool = False
    reach: Values | None = None
    hover: Hover = Hover()


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points, coloured alike or by ``shade``; texts above them, and bars along x from ``ends[0]`` to ``ends[1]``."""

    x: Values
    y: Values
    name: str = ""
    colour: str = "series-1"
    symbol: Literal["circle", "hollow", "diamond", "tick"] = "circle"
    size: float = 6
    shade: Values | None = None
    texts: Sequence[str] | None = None
    ends: tuple[Values, Values] | None = None
    hover: Hover = Hover()


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Bars from 0, upright or lying, with a bar of error from ``ends[0]`` to ``ends[1]`` where they have one."""

    place: Values
    length: Values
    name: str = ""
    colour: str = "series-1"
    opacity: float = 1
    lying: bool = False
    ends: tuple[Values, Values] | None = None
    hover: Hover = Hover()


@dataclass(frozen=True, slots=True, eq=False)
class Blank:
    """Cells of a heat map that have a colour of their own, and what is said of them."""

    cells_LE: NDArray[Any]
    colour: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Heat:
    """A map of layer by expert; ``form`` formats the values along its colour scale from ``low`` to ``high``."""

    layers: Values
    value_LE: NDArray[Any]
    stops: Stops
    low: float
    high: float
    form: str
    blanks: Sequence[Blank]
    hover: Hover


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across the chart at a value of y, or of x if ``upright``; a band where it has ``until``."""

    at: float
    until: float | None = None
    upright: bool = False
    colour: str = "muted"
    name: str = ""


Mark = Line | Points | Bars | Heat | Rule


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Args:
        title: What it shows, with the unit.
        form: Format of its numbers, such as ``.0%``.
        ticks: Where it is labelled and with what; ``None`` leaves that to the drawer.
        ends: Lowest and highest value shown; the first larger turns it round, ``None`` takes what the marks need.
        log: Whether it is logarithmic.
        lined: Whether it has grid lines.
    """

    title: str = ""
    form: str = ""
    ticks: Mapping[float, str] | None = None
    ends: tuple[float, float] | None = None
    log: bool = False
    lined: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Marks between two axes, the first mark lowest.

    Args:
        marks: What is drawn.
        x: The axis to the right.
        y: The axis upwards.
        title: Written above a picture; a page has its own headings.
        height: Pixels on a page.
        stacked: Whether bars stand on top of one another.
    """

    marks: Sequence[Mark]
    x: Axis
    y: Axis
    title: str = ""
    height: int = 340
    stacked: bool = False


def layer_ticks(layers: Values) -> dict[float, str]:
    """Return labels of at most 9 layers, or experts: ticks are what drawing takes longest for."""
    named = np.unique(np.asarray(layers, dtype=int))
    return {float(layer): str(layer) for layer in named[:: -(-len(named) // 9)]}


def named_rows(names: Sequence[str], above: float = 0.5) -> Axis:
    """Return an axis of names from the top down, with some room above the first."""
    ticks = {float(row): name for row, name in enumerate(names)}
    return Axis(ticks=ticks, ends=(len(names) - 0.5, -above), lined=False)
