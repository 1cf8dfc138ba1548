"""Tuned arms: sweeps of one budget under ``--full``, the choice kept in a file, and that file read without them."""

from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import pytest
import yaml
from made_up_experiment import Executor, write

from moe_tune.base.errors import ConfigError, NumericsError
from moe_tune.studies.experiment import run_experiment
from moe_tune.studies.experiment_file import load_experiment
from moe_tune.studies.tuned_file import Tuned, load_tuned, write_tuned
from moe_tune.studies.tuning import tune_with, tuned_arms

BY_ACCURACY = {"name": "validation/accuracy", "goal": "maximize"}
RATE = {"model.head.tau": {"values": [0.5, 1.0, 2.0]}}
ENTRY = Tuned({"model.head.tau": 2.0}, 0.75, 3, 0, "", "2026-11-20T00:00:00+00:00")


def sweep(folder, name="tau.yaml", parameters=RATE, **more):
    content = {"method": "grid", "metric": BY_ACCURACY, "parameters": parameters} | more
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / name).write_text(yaml.safe_dump(kept))


@pytest.fixture
def tuned(folder):
    """Give the folder with a tuned arm."""
    sweep(folder)
    write(folder, tune={"retuned": "tau.yaml"})
    return folder


@pytest.fixture
def bench(tmp_path, leave_run):
    """Give a bench whose points come to a quarter of their temperature on validation; one of -1 fails."""
    asked = []

    def point(sweep, folder, point, plugins):
        tau = point.values["model.head.tau"]
        asked.append((sweep.arguments(point.values), tau))
        if tau in bench.unlucky:
            return "failed", "no luck"
        run = leave_run(folder, point, [tau / 4])
        (run / "config.yaml").write_text(yaml.safe_dump({"model": {"head": {"tau": tau}}}))
        return "finished", ""

    bench = SimpleNamespace(runs_root=str(tmp_path / "runs"), plugins={}, point=point, asked=asked, unlucky=set())
    return bench


def ran(folder, tmp_path, **more):
    execute = Executor(tmp_path / f"runs{len(list(tmp_path.glob('runs*')))}")
    run_experiment(folder, execute, **more)
    return execute.requests


def test_full_tunes_keeps_the_choice_and_later_runs_read_it(tuned, bench, tmp_path):
    requests = ran(tuned, tmp_path, full=True, tune=tune_with(bench))
    assert [tau for _, tau in bench.asked] == [0.5, 1.0, 2.0]
    words = bench.asked[0][0]
    assert words[-5:-2] == ["--model.head.tau=0.5", "--seed_everything=1", "--test_after_fit=false"]
    entry = yaml.safe_load((tuned / "tuned.yaml").read_text())["retuned"]
    assert entry.pop("date").startswith("20")
    assert len(entry.pop("origin")) == 8
    assert entry == {"settings": {"model.head.tau": 2.0}, "validation_accuracy": 0.5, "points": 3, "failed": 0}
    later = ran(tuned, tmp_path, tune=lambda *_: pytest.fail("tuned"))
    for one in (requests[2], later[2]):
        assert one.argv[-3:] == ["--model.head.tau=0.5", "--model.head.tau=2.0", "--seed_everything=2"]
    assert requests[0].argv[-1:] == ["--seed_everything=1"]


def test_an_arm_takes_what_is_chosen_for_another(tuned, bench, tmp_path):
    write(tuned, tune={"retuned": "tau.yaml", "all_tokens": "retuned"}, full_arms={"all_tokens": "overlay.yaml"})
    full = ran(tuned, tmp_path, full=True, tune=tune_with(bench))
    assert len(bench.asked) == 3, "one sweep"
    assert list(load_tuned(tuned)) == ["retuned"]
    for requests in (full, ran(tuned, tmp_path)):
        assert {one.arm: "--model.head.tau=2.0" in one.argv for one in requests} == {
            "untouched": False, "retuned": True, **({"all_tokens": True} if requests is full else {}),
        }  # fmt: skip


@pytest.mark.parametrize("tune", [{"retuned": "untouched"}, {"retuned": "all_tokens", "all_tokens": "retuned"}])
def test_only_a_choice_by_a_sweep_can_be_taken(tuned, tune):
    write(tuned, tune=tune)
    with pytest.raises(ConfigError, match="an arm with a sweep file for"):
        load_experiment(tuned)


def choose(folder, bench):
    experiment = load_experiment(folder)
    tuned_arms(experiment, experiment.arms, folder, tune=tune_with(bench), plugins=None)
    return load_tuned(folder)["retuned"]


def test_what_was_finished_is_not_run_again_and_keeps_its_date(tuned, bench):
    bench.unlucky = {2.0}
    one = choose(tuned, bench)
    assert (one.settings, one.points, one.failed) == ({"model.head.tau": 1.0}, 3, 1)
    write_tuned(tuned, {"retuned": replace(one, date="another day")})
    assert load_tuned(tuned)["retuned"] == one
    bench.asked.clear()
    bench.unlucky = set()
    assert choose(tuned, bench).settings == {"model.head.tau": 2.0}
    assert [tau for _, tau in bench.asked] == [2.0]


def test_points_beyond_the_budget_do_not_count(tuned, bench):
    choose(tuned, bench)
    sweep(tuned, run_cap=2)
    one = choose(tuned, bench)
    assert (one.settings, one.points) == ({"model.head.tau": 1.0}, 2)


def test_a_sweep_without_a_value_is_told(tuned, bench):
    bench.unlucky = {0.5, 1.0, 2.0}
    with pytest.raises(NumericsError, match=r"none of 3 .*results\.csv"):
        choose(tuned, bench)


def test_an_interrupted_tuning_keeps_what_it_has(tuned, tmp_path):
    write(tuned, tune={"retuned": "tau.yaml", "all_tokens": "tau.yaml"}, full_arms={"all_tokens": ["overlay.yaml"]})
    write_tuned(tuned, {"all_tokens": ENTRY, "gone": ENTRY})

    done = []

    def once(sweep, count, origin, command):
        if done:
            raise KeyboardInterrupt
        done.append(sweep)
        return Tuned({"model.head.tau": 1.0}, 0.5, count, 0, origin, "today")

    with pytest.raises(KeyboardInterrupt):
        ran(tuned, tmp_path, full=True, tune=once)
    assert {arm: one.validation_accuracy for arm, one in load_tuned(tuned).items()} == {
        "retuned": 0.5, "all_tokens": 0.75
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, r"chosen for arm 'retuned' but got none .*tuned.yaml.*`python -m moe_tune experiment .* --full`"),
        ({"retuned": Tuned({"optimizer.lr": 0.1}, 0.5, 3, 0, "", "")}, "the sweep is another now"),
        ({"retuned": Tuned({"model.head.tau": 0.1}, 0.5, 9, 0, "", "")}, "from 3 points .* from 9"),
        ({"retuned": ENTRY, "retund": ENTRY}, "Did you mean retuned"),
    ],
)
def test_without_full_a_missing_or_older_choice_is_told(tuned, tmp_path, entries, message):
    write_tuned(tuned, entries)
    with pytest.raises(ConfigError, match=message):
        ran(tuned, tmp_path)


def test_a_choice_from_another_base_is_taken_and_told(tuned, bench, capsys):
    choose(tuned, bench)

    def told():
        capsys.readouterr()
        experiment = load_experiment(tuned)
        arms = tuned_arms(experiment, experiment.arms, tuned, tune=None, plugins=None)
        assert arms["retuned"][-1] == "model.head.tau=2.0"
        return "sweep, base or settings of retuned have changed" in capsys.readouterr().out

    assert not told()
    (tuned / "base.yaml").write_text("# the same\ndata: {source: NanoQuiz}")
    sweep(tuned, name="tau.yaml", description="the same")
    assert not told()
    (tuned / "base.yaml").write_text("data: {source: NanoQuiz, batch_size: 8}")
    assert told()


def test_arms_that_do_not_run_need_no_choice(folder, tmp_path):
    sweep(folder)
    write(folder, tune={"all_tokens": "tau.yaml"})
    assert len(ran(folder, tmp_path)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[retuned]", "arms with what was chosen"),
        ("retuned: 3", "settings, validation_accuracy"),
        ("retuned: {setting: {}}", "Did you mean settings"),
        ("retuned: {settings: {}, validation_accuracy: high}", "validation_accuracy of retuned"),
        ("retuned: {settings: {optimizer.lr: 2026-01-01}}", "settings of retuned"),
        ("retuned: {settings: {3: 0.1}}", "settings of retuned"),
    ],
)
def test_the_file_is_read_strictly(tuned, tmp_path, content, message):
    (tuned / "tuned.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        ran(tuned, tmp_path)
    assert "tuned.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "random"}, "a number of points"),
        ({"parameters": {"model.head.tau": {"values": []}}}, "values for every parameter"),
        ({"parameters": {"model.head.tau": {"values": [date(2026, 1, 1)]}}}, "values for every parameter"),
        ({"method": "random", "run_cap": 0}, "at least 1 as run_cap"),
        ({"metric": BY_ACCURACY | {"name": "test/accuracy"}}, "a choice by validation/accuracy"),
        ({"metric": BY_ACCURACY | {"goal": "minimize"}}, "a choice by validation/accuracy"),
        ({"metric": "validation/accuracy"}, "a choice by validation/accuracy"),
        ({"parameters": {"seed_everything": {"values": [1, 2]}}}, "settings to choose but got 'seed_everything'"),
        ({"parameters": {"optimizer.lr": {"min": 0.1, "max": 0.2}}}, "values for every parameter of a grid"),
        ({"parameters": [3]}, "parameters with their values"),
        ({"parameters": ...}, "parameters with their values"),
    ],
)
def test_a_sweep_that_is_no_fair_choice_is_refused_with_and_without_full(tuned, tmp_path, more, message):
    sweep(tuned, **more)
    for full in (False, True):
        with pytest.raises(ConfigError, match=rf"{message}.*tau\.yaml"):
            ran(tuned, tmp_path, full=full)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model.haed.tau": {"values": [0.5]}}, "model.haed"),
        ({"model.head.tau": {"values": [0.5, 0.0]}}, "temperature above 0"),
        ({"test_after_fit": {"values": [True]}}, "leaves the test split closed"),
    ],
)
def test_every_point_is_read_before_one_runs(tuned, tmp_path, parameters, message):
    sweep(tuned, parameters=parameters)
    with pytest.raises(ConfigError, match=rf"tau\.yaml: arm retuned: .*{message}"):
        ran(tuned, tmp_path, full=True, tune=lambda *_: pytest.fail("tuned"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"run_cap": 2}, "got 3 of retuned, 2 of all_tokens"),
        ({"parameters": {"model.head.tau": {"values": [0.5, 0.5, 1.0]}}}, "got 3 of retuned, 2 of all_tokens"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}}, "one early_terminate"),
    ],
)
def test_another_budget_is_refused(tuned, tmp_path, other, message):
    sweep(tuned, "other.yaml", **other)
    write(tuned, tune={"retuned": "tau.yaml", "all_tokens": "other.yaml"})
    for full in (False, True):
        with pytest.raises(ConfigError, match=message):
            ran(tuned, tmp_path, full=full)


def test_a_class_comes_before_its_options():
    settings = {"model.head.tau": 0.5, "model.head.class_path": "T", "model.head.mass": "raw", "optimizer.lr": 1e-5}
    assert Tuned(settings, 0.5, 1, 0, "", "").as_settings() == [
        "model.head.class_path=T", "model.head.mass=raw", "model.head.tau=0.5", "optimizer.lr=1e-05"
    ]  # fmt: skip
