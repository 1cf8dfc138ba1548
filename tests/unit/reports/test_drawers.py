"""Both drawers draw the marks they are given: as many, where they are, in colours of the palette."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from moe_tune.reports.chart import Axis, Bars, Blank, Chart, Heat, Hover, Line, Points, Rule, layer_ticks
from moe_tune.reports.page_drawer import page_figure
from moe_tune.reports.palette import COLOURS, LIGHT, ROOT_STOPS
from moe_tune.reports.picture_drawer import draw

X, Y = np.array([1.0, 2.0, 4.0]), np.array([0.2, 0.5, 0.4])
MARKS = [
    Rule(0.1, 0.3, colour="band"),
    Rule(0.25, name="a rule"),
    Line(X, Y, "a line", "series-2", "dash", reach=Y / 10),
    Points(X, Y, "points", "flag", "hollow", ends=(X - 1, X + 1), texts=["a", "b", "c"]),
    Points(X, 1 - Y, "shaded", shade=X),
    Bars(X, Y, "bars", "series-3", ends=(Y - 0.1, Y + 0.1)),
]


@pytest.fixture
def chart():
    return Chart(MARKS, Axis("right", ticks={1.0: "one"}), Axis("up", ".0%", ends=(-0.1, 1.1)), "title")


def picture(chart):
    axes = Figure().subplots()
    draw(axes, chart)
    return axes


def test_both_draw_every_mark_at_its_place(chart):
    drawn = {trace.name: trace for trace in page_figure(chart).data if trace.name}
    axes = picture(chart)
    lines = {line.get_label(): line for line in axes.lines}
    dots = {one.get_label(): one for one in axes.collections}
    assert set(drawn) == {"a rule", "a line", "points", "shaded", "bars"}
    for x, y in ((drawn["a line"].x, drawn["a line"].y), lines["a line"].get_data()):
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(y, Y)
    for name, y in (("points", Y), ("shaded", 1 - Y)):
        np.testing.assert_array_equal(drawn[name].y, y)
        np.testing.assert_array_equal(dots[name].get_offsets()[:, 1], y)
    assert [bar.get_height() for bar in axes.patches if bar.get_label() == "_nolegend_"][-3:] == Y.tolist()
    np.testing.assert_allclose(drawn["bars"].error_y.array, 0.1)
    assert [text.get_text() for text in axes.texts] == list(drawn["points"].text) == ["a", "b", "c"]


def test_both_draw_in_the_palettes_colours_and_label_alike(chart):
    figure, axes = page_figure(chart), picture(chart)
    for name in re.findall(r"var\(--([\w-]+)", figure.to_json()):
        assert name in COLOURS
    assert next(line for line in axes.lines if line.get_label() == "a line").get_color() == LIGHT["series-2"]
    assert figure.layout.xaxis.title.text == axes.get_xlabel() == "right"
    assert list(figure.layout.xaxis.ticktext) == [tick.get_text() for tick in axes.get_xticklabels()] == ["one"]
    assert tuple(figure.layout.yaxis.range) == axes.get_ylim() == (-0.1, 1.1)


def test_both_leave_the_same_cells_of_a_map_blank():
    value_LE = np.array([[0.0, 0.5, 1.0], [0.25, 0.0, 0.75]])
    blank = Blank(value_LE == 0, "never", "never")
    chart = Chart(
        [Heat([3, 7], value_LE, ROOT_STOPS, 0, 1, ".0%", [blank], Hover("%{z}"))],
        Axis("expert"),
        Axis("layer", ticks=layer_ticks([3, 7]), ends=(7.5, 2.5)),
    )
    heat, never = page_figure(chart).data
    axes = picture(chart)
    image = axes.images[0].get_array()
    np.testing.assert_array_equal(np.isnan(heat.z), value_LE == 0)
    np.testing.assert_array_equal(np.isnan(never.z), value_LE > 0)
    np.testing.assert_array_equal(np.all(image == to_rgba(LIGHT["never"]), axis=-1), value_LE == 0)
    np.testing.assert_allclose(image[0, 2], to_rgba(LIGHT["seq-4"]))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["3", "7"]


def test_at_most_nine_layers_are_labelled():
    assert list(layer_ticks(range(4))) == [0, 1, 2, 3]
    assert all(len(layer_ticks(range(layers))) <= 9 for layers in range(1, 100))
