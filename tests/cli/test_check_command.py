"""``check`` passes what is shipped, and names each planted mistake in a line of its own."""

from pathlib import Path

import pytest
import yaml

from moe_tune.cli.main import main

SHIPPED = sorted(Path("configs/sweep").glob("*.yaml"))


def parameter(name, spec):
    return {"parameters": {name: spec}}


TAU = "model.head.tau"
NANO = ["--config", "configs/nano.yaml", "--config", "configs/head/temperature.yaml"]
POINT = ["--config", "${args_json}"]
COMMAND = ["${env}", "python", "-m", "moe_tune", "fit", "--config"]
MISTAKES = {
    "null": (parameter(TAU, {"values": [0.5, None]}), ["got null (parameters.model.head.tau.values)"]),
    "a number as text": (parameter(TAU, {"values": [0.5, "1e-3"]}), ["the text '1e-3'", "1.0e-3"]),
    "a bound as text": (parameter(TAU, {"min": "1e3", "max": 20000.0}), ["the text '1e3'", "1.0e+3"]),
    "an unknown key": ({"metod": "grid"}, ["'metod'", "Did you mean method?"]),
    "an unknown key of a parameter": (parameter(TAU, {"valeus": [1]}), ["'valeus'", "Did you mean values?"]),
    "a nested block": (parameter("model", {"parameters": {"scope": {"value": "all"}}}), ["nested", "model.scope:"]),
    "no method": ({"method": None}, ["'method'"]),
    "an unknown method": ({"method": "gird"}, ["'gird'", "(method)"]),
    "bayes without a metric": ({"method": "bayes", "metric": None}, ["a metric for bayes"]),
    "hyperband without a metric": (
        {"metric": None, "early_terminate": {"type": "hyperband", "min_iter": 1}},
        ["early_terminate"],
    ),
    "an unknown metric": (
        {"metric": {"name": "val/accuracy"}},
        ["'val/accuracy'", "Did you mean validation/accuracy?"],
    ),
    "the test split": ({"metric": {"name": "test/accuracy"}}, ["the validation split", "'test/accuracy'"]),
    "an unknown goal": ({"metric": {"name": "validation/loss", "goal": "max"}}, ["'max'", "metric.goal"]),
    "mixed bounds": (parameter(TAU, {"min": 0, "max": 1.0}), ["one type", "0 and 1.0"]),
    "crossed bounds": (parameter(TAU, {"min": 2.0, "max": 1.0}), ["min 2.0 is not less than max 1.0"]),
    "no distribution": (parameter(TAU, 0.5), ["{value: 0.5}"]),
    "text arguments": ({"command": [*COMMAND[:-1], "${args}"]}, ["${args_json} but got ${args}"]),
    "no command": ({"command": None}, ["expected a command"]),
    "another option": (parameter("model.head.tua", {"values": [0.5]}), ["'tua'", "model.head"]),
    "a misspelt key": (parameter("model.haed.tau", {"values": [0.5]}), ["'model.haed.tau'", "Did you mean model.head"]),
    "a value out of range": (parameter(TAU, {"values": [0.5, 0.0]}), ["temperature above 0"]),
    "a grid over a range": (parameter(TAU, {"min": 0.5, "max": 1.0}), ["grid", TAU, "values: [...]"]),
    "no parameters": ({"parameters": {}}, ["a parameter to vary"]),
    "parameters that are no mapping": ({"parameters": [TAU]}, ["a mapping", "(parameters)"]),
    "a band without s": ({"early_terminate": {"type": "hyperband", "max_iter": 3}}, ["s beside max_iter"]),
    "two bands without s": (
        {"early_terminate": {"type": "hyperband", "max_iter": 3, "min_iter": 1}},
        ["s beside max_iter"],
    ),
    "no band": ({"early_terminate": {"type": "hyperband", "max_iter": 1, "s": 1}}, ["length at least 1"]),
    "no goal": ({"metric": {"name": "validation/accuracy"}}, ["(metric.goal)"]),
    "a cap of none": ({"run_cap": 0}, ["(run_cap)"]),
    "a strategy no fit takes": ({"command": [*COMMAND[:-1], *NANO, "--trainer.strategy=fsdp", *POINT]}, ["fsdp"]),
    "a precision no fit takes": (parameter("trainer.precision", {"value": "bf16-true"}), ["heads in float32"]),
    "losses for a head that does not train": (
        {"command": [*COMMAND[:-1], *NANO, "--config", "configs/losses/balance_z.yaml", *POINT]},
        ["nothing to train"],
    ),
    "the test split after every fit": (
        {"command": [*COMMAND[:-1], *NANO, "--test_after_fit=true", *POINT]},
        ["--test_after_fit=false"],
    ),
    "a missing plug-in file": (
        {"command": [*COMMAND[:-1], "--plugins", "nope.py", *NANO, *POINT]},
        ["a Python file but got 'nope.py' (--plugins)"],
    ),
    "a missing file": (
        {"command": [*COMMAND, "configs/nope.yaml", "--config", "${args_json}"]},
        ["'configs/nope.yaml'"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_named_in_one_line(mistake, tmp_path, capsys):
    changes, words = MISTAKES[mistake]
    content = yaml.safe_load(Path("configs/sweep/temperature.yaml").read_text()) | parameter(TAU, {"values": [0.5]})
    file = tmp_path / "planted.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in (content | changes).items() if value is not None}))
    assert main(["check", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(all(word in line for word in words) for line in lines), lines
    assert all(line.startswith("moe_tune: ") and str(file) in line for line in lines)
    assert len(lines) == 1, lines


def test_a_command_is_read_though_nothing_is_varied(tmp_path, capsys):
    content = yaml.safe_load(Path("configs/sweep/temperature.yaml").read_text())
    file = tmp_path / "planted.yaml"
    command = [*COMMAND[:-1], *NANO, "--trainer.strategy=fsdp", *POINT]
    file.write_text(yaml.safe_dump(content | {"parameters": {}, "command": command}))
    assert main(["check", str(file)]) == 2
    told = capsys.readouterr().err
    assert [word for word in ("a parameter to vary", "fsdp") if word in told] == ["a parameter to vary", "fsdp"]


def test_what_the_service_and_training_know_is_valid(tmp_path, capsys):
    content = yaml.safe_load(Path("configs/sweep/temperature.yaml").read_text()) | parameter(TAU, {"values": [0.5]})
    file = tmp_path / "valid.yaml"
    metric = {"name": "train/entropy_all", "goal": "minimize"}
    file.write_text(yaml.safe_dump(content | {"run_cap": 3, "metric": metric}))
    losses = "configs/losses/balance_z.yaml"  # whose head another file names
    assert main(["check", str(file), losses, "nano"]) == 0, capsys.readouterr().err


def test_valid_files_get_a_line_each_and_a_mistake_does_not_hide_others(tmp_path, capsys):
    overlay, broken = "configs/head/temperature.yaml", tmp_path / "broken.yaml"
    broken.write_text("model:\n  haed: X\n")
    assert main(["check", "configs/nano.yaml", str(broken), overlay, "no_such.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{file}: valid configuration" for file in ("configs/nano.yaml", overlay)]
    assert [name for name in ("haed", "no_such.yaml") if name in err] == ["haed", "no_such.yaml"]
    assert len(err.splitlines()) == 2


@pytest.mark.slow
def test_every_shipped_sweep_is_valid(capsys):
    assert main(["check", *map(str, SHIPPED)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [str(file) for file in SHIPPED]


def test_shipped_sweeps_are_of_every_method():
    methods = {yaml.safe_load(file.read_text())["method"] for file in SHIPPED}
    assert methods == {"grid", "random", "bayes"}
