"""The report of a sweep: the best point, and a regression that sees a planted effect and no other."""

import io

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from moe_tune.studies.sweep_points import SweepPoint, save_points
from moe_tune.studies.sweep_report import explained_share, results_table, write_report
from moe_tune.studies.sweep_terminal import points_table

LOG = {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0}
METRIC = "validation/accuracy"


def test_a_planted_effect_is_explained_and_noise_is_not(sweep_of):
    draw = np.random.default_rng(0)
    rate, name = 10 ** draw.uniform(-4, 0, 200), draw.choice(["x", "y", "z"], 200)
    frame = pd.DataFrame({"optimizer.lr": rate, "model.head": name})
    frame[METRIC] = -((np.log10(rate) + 2) ** 2) + 0.1 * draw.normal(size=200)
    sweep = sweep_of("random", {"model.head": {"values": ["x", "y", "z"]}, "optimizer.lr": LOG})
    table = explained_share(sweep, frame).set_index("parameter")
    assert list(table.index) == ["optimizer.lr", "model.head"]
    assert table.loc["optimizer.lr", "adjusted"] > 0.95
    assert table.loc["model.head", "adjusted"] < 0.03


def test_the_share_is_that_of_an_analysis_of_variance(sweep_of):
    frame = pd.DataFrame({"model.head": ["x", "x", "y", "y", "y"], METRIC: [0.1, 0.3, 0.5, 0.6, 0.7]})
    groups = [np.array([0.1, 0.3]), np.array([0.5, 0.6, 0.7])]
    grand = frame[METRIC].mean()
    between = sum(len(group) * (group.mean() - grand) ** 2 for group in groups)
    share = between / ((frame[METRIC] - grand) ** 2).sum()
    row = explained_share(sweep_of("grid", {"model.head": {"values": ["x", "y"]}}), frame).iloc[0]
    assert row["share"] == pytest.approx(share)
    assert row["adjusted"] == pytest.approx(1 - (1 - share) * 4 / 3)


def test_a_parameter_that_was_not_varied_explains_nothing_and_equal_results_give_no_share(sweep_of):
    frame = pd.DataFrame({"a": [1, 1, 1], "b": ["x", "y", "x"], METRIC: [0.5, 0.5, 0.5]})
    table = explained_share(sweep_of("grid", {"a": {"value": 1}, "b": {"values": ["x", "y"]}}), frame)
    assert list(table["parameter"]) == ["b"]
    assert table["share"].isna().all()


@pytest.mark.parametrize(("goal", "best"), [("maximize", 1), ("minimize", 2)])
def test_the_best_point_becomes_an_overlay_of_what_was_varied(sweep_of, leave_run, tmp_path, goal, best):
    sweep = sweep_of(
        "grid",
        {"model.head.tau": {"values": [0.3, 0.5, 0.7, 1.0]}, "optimizer.lr": {"value": 0.1}},
        metric={"name": METRIC, "goal": goal},
    )
    points = [
        SweepPoint(index, {"model.head.tau": tau, "optimizer.lr": 0.1}, "finished")
        for index, tau in enumerate((0.3, 0.5, 0.7, 1.0))
    ]
    points[3].status = "failed"
    # What counts is the epoch of best.ckpt, not the last one; a point that failed has nothing to say.
    histories = ([0.5, 0.6], 1), ([0.9, 0.5], 0), ([0.4, 0.6], 0), ([0.99, 0.1], 0 if goal == "maximize" else 1)
    for point, (history, epoch) in zip(points, histories, strict=True):
        run = leave_run(tmp_path, point, history, best=epoch)
        head = {"class_path": "TemperatureHead", "init_args": {"tau": point.values["model.head.tau"]}}
        config = {"model": {"head": head, "scope": "all"}, "optimizer": {"init_args": {"lr": 0.1}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    _, overlay = write_report(sweep, tmp_path, points, ["my heads.py"])
    assert "# python -m moe_tune --plugins 'my heads.py' fit --config " in overlay.read_text()
    content = yaml.safe_load(overlay.read_text())
    assert content == {
        "model": {
            "head": {"class_path": "TemperatureHead", "init_args": {"tau": points[best].values["model.head.tau"]}}
        },
        "optimizer": {"init_args": {"lr": 0.1}},
    }
    assert list(results_table(sweep, tmp_path, points)["epochs"]) == [2, 2, 2, 2]
    page = (tmp_path / "parallel.html").read_text()
    assert "parcoords" in page
    assert '<script src="http' not in page
    assert len(pd.read_csv(tmp_path / "results.csv")) == 4


def test_on_the_terminal_every_value_stands_below_its_parameter(sweep_of, tmp_path):
    sweep = sweep_of("grid", {"model.head.tau": {"values": [0.5]}, "model.head.mass": {"values": ["raw"]}})
    save_points(tmp_path, [SweepPoint(0, {"model.head.tau": 0.5, "model.head.mass": "raw"}, "failed")])
    shown = io.StringIO()
    Console(file=shown, width=120).print(points_table(sweep, tmp_path))
    header, _, row = shown.getvalue().splitlines()[:3]
    for name, value in (("model.head.tau", "0.5"), ("model.head.mass", "raw"), ("status", "failed")):
        assert row.index(value) == header.index(name)
