"""The figures show what the table says: sand, grey and coloured experts, and the reference dashed where it is."""

import time

import numpy as np
import pytest
from made_up_evidence import made_up_evidence
from matplotlib.colors import to_rgba

from moe_tune.callbacks.evidence_figures import evidence_figures
from moe_tune.callbacks.evidence_tables import with_estimates
from moe_tune.reports.palette import LIGHT

SAND, WHITE, GREY = (to_rgba(LIGHT[name]) for name in ("never", "card", "few"))


@pytest.fixture(scope="module")
def table():
    return with_estimates(made_up_evidence())


@pytest.fixture(scope="module")
def base():
    return with_estimates(made_up_evidence(seed=1))


def is_colour(axes, colour):
    return np.all(axes.images[0].get_array() == colour, axis=-1)


def values(frame, name):
    return frame.pivot(index="layer", columns="expert", values=name).to_numpy()


def dashed(axes):
    return [line for line in axes.lines if line.get_linestyle() == "--"]


def test_usage_is_sand_exactly_where_an_expert_never_fired(table):
    heat = evidence_figures(table, "validation", None)["usage"].axes[0]
    never_LE = values(table, "count") == 0
    assert never_LE.any()
    assert not never_LE.all()
    np.testing.assert_array_equal(is_colour(heat, SAND), never_LE)
    assert f"{never_LE.mean():.0%}" in heat.get_title()


def test_more_usage_is_darker(table):
    heat = evidence_figures(table, "validation", None)["usage"].axes[0]
    usage_LE, light_LE = values(table, "usage"), heat.images[0].get_array()[..., 1]
    order = usage_LE[usage_LE > 0].argsort(kind="stable")
    assert (np.diff(light_LE[usage_LE > 0][order]) <= 0).all()


def test_accuracy_is_grey_where_questions_are_few_and_white_where_there_are_none(table):
    heat = evidence_figures(table, "validation", None)["accuracy"].axes[0]
    questions_LE = values(table, "questions")
    few_LE = (questions_LE > 0) & (questions_LE < 30)
    assert few_LE.any()
    np.testing.assert_array_equal(is_colour(heat, GREY), few_LE)
    assert is_colour(heat, WHITE)[questions_LE == 0].all()
    assert "associational" in heat.get_title()


def test_the_range_beside_the_accuracies_leaves_few_question_experts_out(table):
    side = evidence_figures(table, "validation", None)["accuracy"].axes[1]
    trusted = table[table["questions"] >= 30].groupby("layer")["shrunk"]
    assert [bar.get_width() for bar in side.patches] == pytest.approx(list(trusted.max() - trusted.min()))


def test_the_reference_is_dashed_with_its_own_values(table, base):
    alone, both = evidence_figures(table, "validation", None), evidence_figures(table, "validation", base)
    assert not any(dashed(axes) for figure in alone.values() for axes in figure.axes)
    assert all(any(dashed(axes) for axes in figure.axes) for figure in both.values())
    (never,) = dashed(both["usage"].axes[1])
    assert list(never.get_xdata()) == list((values(base, "count") == 0).mean(axis=1))
    for panel, kind in zip(both["entropy"].axes, ("all", "all", "topk", "topk"), strict=True):
        (line,) = dashed(panel)
        assert list(line.get_ydata()) == list(base.groupby("layer")[f"entropy_{kind}_mean"].first())
    (level,) = dashed(both["scatter"].axes[0])
    assert level.get_ydata()[0] == pytest.approx(base["correct"].sum() / base["questions"].sum())


def test_the_scatter_has_a_point_per_expert_in_use(table):
    axes = evidence_figures(table, "validation", None)["scatter"].axes[0]
    found = {one.get_label(): np.asarray(one.get_offsets()) for one in axes.collections}
    few, trusted = found["under 30 questions"], found["30 questions and more"]
    used = table[table["questions"] > 0]
    wanted = used.loc[used["questions"] >= 30, ["usage", "accuracy"]].to_numpy()
    np.testing.assert_allclose(np.sort(trusted, axis=0), np.sort(wanted, axis=0))
    assert len(few) + len(trusted) == len(used)


def test_every_scope_gets_a_map_and_layers_that_were_not_seen_are_left_out():
    frame = made_up_evidence(scopes=("answer", "all"))
    frame.loc[frame["layer"] == 0, ["count", "tokens", "questions", "correct"]] = 0
    figures = evidence_figures(with_estimates(frame), "test", None)
    maps = [axes for axes in figures["usage"].axes if "scope" in axes.get_title()]
    assert [axes.get_title().split(":")[0] for axes in maps] == ["test, scope answer", "test, scope all"]
    assert all(axes.images[0].get_array().shape[:2] == (2, 8) for axes in maps)
    assert [tick.get_text() for tick in maps[0].get_yticklabels()] == ["1", "2"]


def test_beside_each_entropy_stands_all_of_it_from_0_to_the_maximum(table, base):
    zoomed_all, whole_all, zoomed_topk, whole_topk = evidence_figures(table, "test", base)["entropy"].axes
    for zoomed, whole, most in ((zoomed_all, whole_all, np.log(8)), (zoomed_topk, whole_topk, np.log(2))):
        low, high = whole.get_ylim()
        assert low == 0
        assert most < high < 1.1 * most
        assert zoomed.get_ylim()[0] > 0
        for one, other in zip(zoomed.lines, whole.lines, strict=True):
            np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())


def test_a_reference_of_other_layers_is_left_out(table, base):
    fewer = base[base["layer"] > 0]
    assert not any(dashed(axes) for figure in evidence_figures(table, "test", fewer).values() for axes in figure.axes)


def test_every_line_of_the_entropies_is_in_a_legend_below_the_curves(table, base):
    figure = evidence_figures(table, "test", base)["entropy"]
    figure.draw_without_rendering()
    for axes in figure.axes[::2]:
        assert {text.get_text() for text in axes.get_legend().get_texts()} == {line.get_label() for line in axes.lines}
        box, title = axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()
        assert 0 <= box.y0 < box.y1 <= title.y0 + 1
        assert box.x1 <= figure.bbox.x1
    right, left = figure.axes[2].get_legend().get_window_extent(), figure.axes[0].get_legend().get_window_extent()
    assert left.x1 <= right.x0


@pytest.mark.parametrize("correct", [0.0, 1.0])
def test_it_draws_where_all_or_no_questions_went_right_and_where_none_are_many(correct, tmp_path):
    frame = made_up_evidence(questions=9)
    frame["correct"] = (correct * frame["questions"]).astype(int)
    for name, figure in evidence_figures(with_estimates(frame), "test", with_estimates(frame)).items():
        figure.savefig(tmp_path / f"{name}.png")


def test_a_figure_takes_less_than_half_a_second_at_the_size_of_olmoe(tmp_path):
    frame = with_estimates(made_up_evidence(16, 64, 8, questions=300, scopes=("answer", "all")))

    def seconds():
        start = time.process_time()
        figures = evidence_figures(frame, "validation", frame)
        for figure in figures.values():
            figure.savefig(tmp_path / "one.png", pil_kwargs={"compress_level": 1})
        return (time.process_time() - start) / len(figures)

    # Other work on the machine only ever adds.
    assert any(seconds() < 0.5 for _ in range(5))
