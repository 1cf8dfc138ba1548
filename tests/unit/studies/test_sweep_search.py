"""A sweep without a server: grids are complete, interruptions change nothing, bayes beats chance, hyperband stops."""

import json
import os
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from types import SimpleNamespace

import pytest

from moe_tune.runs.agent import StoppedBySweep
from moe_tune.studies import sweep_runner as runner
from moe_tune.studies.sweep_points import SweepPoint, load_points, opened_again
from moe_tune.studies.sweep_runner import run_sweep
from moe_tune.studies.sweep_search import Hyperband, shall_stop

PLANE = {"model.head.a": {"min": 0.0, "max": 1.0}, "model.head.b": {"min": 0.0, "max": 1.0}}
VALUES = {"model.head.tau": [0.3, 1.0, 2.0], "model.head.mass": ["raw", "preserved"], "seed_everything": [0, 1]}


def peak(values):
    return 1 - (values["model.head.a"] - 0.31) ** 2 - (values["model.head.b"] - 0.62) ** 2


@pytest.fixture
def executed():
    return []


@pytest.fixture
def execute(leave_run, executed):
    def run(sweep, folder, point, plugins):
        executed.append(point.index)
        leave_run(folder, point, [peak(point.values) if "model.head.a" in point.values else 0.5])
        return "finished", ""

    return run


def test_a_grid_is_every_combination_once_and_then_ends(sweep_of, execute, tmp_path):
    sweep = sweep_of("grid", {name: {"values": values} for name, values in VALUES.items()})
    points = run_sweep(sweep, tmp_path, execute, count=None)
    assert len(points) == 12
    assert {tuple(point.values[name] for name in VALUES) for point in points} == set(product(*VALUES.values()))
    assert run_sweep(sweep, tmp_path, execute, count=None) == points


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_an_interrupted_sweep_loses_and_repeats_no_point(sweep_of, execute, executed, tmp_path, method):
    parameters = {name: {"values": values} for name, values in VALUES.items()} if method == "grid" else PLANE
    sweep = sweep_of(method, parameters)
    whole = run_sweep(sweep, tmp_path / "whole", execute, count=6, seed=3)
    executed.clear()

    def interrupted(sweep, folder, point, plugins):
        if point.index == 3:
            raise KeyboardInterrupt
        return execute(sweep, folder, point, plugins)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path / "parts", interrupted, count=6, seed=3)
    assert [point.status for point in load_points(tmp_path / "parts")] == ["finished"] * 3 + ["running"]
    parts = run_sweep(sweep, tmp_path / "parts", execute, count=6, seed=3)
    assert executed == [0, 1, 2, 3, 4, 5]
    assert parts == whole == load_points(tmp_path / "parts")


def test_more_points_are_added_to_those_there_are(sweep_of, execute, tmp_path):
    sweep = sweep_of("random", PLANE)
    first = run_sweep(sweep, tmp_path / "a", execute, count=2)
    assert run_sweep(sweep, tmp_path / "a", execute, count=4)[:2] == first
    assert [point.values for point in run_sweep(sweep, tmp_path / "b", execute, count=4, seed=1)[:2]] != [
        point.values for point in first
    ]


def test_a_point_that_fails_is_kept_and_the_sweep_goes_on(sweep_of, execute, tmp_path):
    def sometimes(sweep, folder, point, plugins):
        return ("failed", "why") if point.index == 1 else execute(sweep, folder, point, plugins)

    points = run_sweep(sweep_of("random", PLANE), tmp_path, sometimes, count=3)
    assert [(point.status, point.note) for point in points] == [("finished", ""), ("failed", "why"), ("finished", "")]


def test_a_point_that_raises_has_failed_and_the_sweep_goes_on(sweep_of, execute, tmp_path):
    def sometimes(sweep, folder, point, plugins):
        if point.index == 1:
            raise RuntimeError("out of\nmemory")
        return execute(sweep, folder, point, plugins)

    points = run_sweep(sweep_of("random", PLANE), tmp_path, sometimes, count=3)
    assert [(point.status, point.note) for point in points] == [
        ("finished", ""),
        ("failed", "RuntimeError: out of memory"),
        ("finished", ""),
    ]
    assert load_points(tmp_path) == points


def test_a_lost_process_fails_what_was_running_and_a_new_pool_goes_on(sweep_of, tmp_path, monkeypatch):
    pools = []

    class Pool:
        """Loses a process at the second point it is given; the first pool only."""

        def __init__(self):
            self.given = []
            pools.append(self)

        def submit(self, fn, sweep, folder, point, plugins):
            future = Future()
            self.given.append(future)
            if len(pools) > 1:
                future.set_result(("finished", ""))
            elif len(self.given) == 2:
                for lost in self.given:
                    lost.set_exception(BrokenProcessPool("a process died"))
            return future

        def shutdown(self): ...

    monkeypatch.setattr(runner, "_executor", lambda workers, plugins: Pool())
    points = run_sweep(sweep_of("random", PLANE), tmp_path, None, count=4, workers=2)
    assert [point.status for point in points] == ["failed", "failed", "finished", "finished"]
    assert points[0].note == "BrokenProcessPool: a process died"
    assert len(pools) == 2


def test_bayes_finds_more_than_random_search_over_five_seeds(sweep_of, execute, tmp_path):
    best = {}
    for method in ("random", "bayes"):
        best[method] = [
            max(peak(p.values) for p in run_sweep(sweep_of(method, PLANE), folder, execute, count=10, seed=seed))
            for seed in range(5)
            for folder in [tmp_path / f"{method}{seed}"]
        ]
    gain = sum(best["bayes"]) - sum(best["random"])
    assert gain > 0
    assert sum(b > r for b, r in zip(best["bayes"], best["random"], strict=True)) >= 4


@pytest.mark.parametrize(("own", "stopped"), [([0.2, 0.2], True), ([0.9, 0.9], False), ([0.2], False), ([], False)])
def test_hyperband_stops_what_is_below_the_best_half(sweep_of, leave_run, tmp_path, own, stopped):
    sweep = sweep_of("random", PLANE, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    values = {"model.head.a": 0.5, "model.head.b": 0.5}
    points = [SweepPoint(index, values, "finished") for index in range(4)]
    for point, value in zip(points, (0.3, 0.5, 0.6, 0.7), strict=True):
        leave_run(tmp_path, point, [value, value])
    points.append(SweepPoint(4, values))
    leave_run(tmp_path, points[-1], own, status="started")
    assert shall_stop(sweep, points, tmp_path, 4) is stopped


@pytest.mark.parametrize(
    ("limits", "stopped"),
    [
        ({"max_epochs": 9, "max_steps": -1}, True),
        ({"max_epochs": 3, "max_steps": -1}, False),
        ({"max_epochs": None, "max_steps": 99}, True),
        ({"max_epochs": -1, "max_steps": 99}, True),
        ({"max_epochs": -1, "max_steps": 20}, False),
    ],
)
def test_hyperband_asks_until_the_last_epoch_or_step(sweep_of, leave_run, tmp_path, limits, stopped, monkeypatch):
    monkeypatch.setattr("moe_tune.studies.sweep_search.shall_stop", lambda *_: True)
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), current_epoch=2, global_step=20, **limits)
    ended = False
    try:
        Hyperband(sweep_of("random", PLANE), tmp_path, 0).on_validation_end(trainer, None)
    except StoppedBySweep:
        ended = True
    assert ended is stopped


def test_of_several_runs_of_a_point_the_newest_counts(leave_run, tmp_path):
    point = SweepPoint(0, {})
    old = leave_run(tmp_path, point, [0.5], status="started")
    new = old.with_name("nano-RetunedHead-s0-99999999")
    new.mkdir()
    (new / "manifest.json").write_text(json.dumps({"status": "finished"}))
    os.utime(old / "manifest.json", (1, 1))
    assert point.run(tmp_path) == new
    assert point.ended(tmp_path) == "finished"
    os.utime(new / "manifest.json", (0, 0))
    assert point.run(tmp_path) == old


def test_a_half_written_line_and_values_that_are_no_numbers_are_left_out(leave_run, tmp_path):
    point = SweepPoint(0, {})
    file = leave_run(tmp_path, point, [0.25, 0.5]) / "metrics.jsonl"
    assert point.history(tmp_path, "validation/accuracy") == [0.25, 0.5]
    with file.open("a") as handle:
        handle.write(json.dumps({"step": 3, "validation/accuracy": None}) + '\n{"step": 4, "validation/acc')
    assert point.history(tmp_path, "validation/accuracy") == [0.25, 0.5]
    assert SweepPoint(1, {}).value(tmp_path, "validation/accuracy") is None


@pytest.mark.parametrize(("best", "value"), [(0, 0.25), (1, 0.5), (None, 0.375)])
def test_a_point_is_judged_at_the_epoch_of_its_best_checkpoint_or_by_what_was_last(leave_run, tmp_path, best, value):
    point = SweepPoint(0, {})
    file = leave_run(tmp_path, point, [0.25, 0.5, 0.375], best=best) / "metrics.jsonl"
    with file.open("a") as handle:
        handle.write(
            json.dumps({"step": 2, "train/loss": 1.5}) + "\n" + json.dumps({"step": 3, "train/loss": 1.25}) + "\n"
        )
    assert point.value(tmp_path, "validation/accuracy") == value
    assert point.value(tmp_path, "train/loss") == 1.25


def test_a_point_whose_folder_is_gone_runs_again_and_a_failed_one_when_asked(sweep_of, execute, executed, tmp_path):
    def sometimes(sweep, folder, point, plugins):
        return ("failed", "no memory") if point.index == 1 else execute(sweep, folder, point, plugins)

    sweep = sweep_of("random", PLANE)
    first = [point.values for point in run_sweep(sweep, tmp_path, sometimes, count=3)]
    assert opened_again(tmp_path, failed=False) == {}
    shutil.rmtree(load_points(tmp_path)[2].root(tmp_path))
    assert opened_again(tmp_path, failed=False) == {2: "its folder is gone"}
    assert [point.status for point in run_sweep(sweep, tmp_path, execute, count=3)] == [
        "finished",
        "failed",
        "finished",
    ]
    assert opened_again(tmp_path, failed=True) == {1: "it had failed: no memory"}
    points = run_sweep(sweep, tmp_path, execute, count=3)
    assert [(point.status, point.note) for point in points] == [("finished", "")] * 3
    assert [point.values for point in points] == first
    assert executed == [0, 2, 2, 1]
