"""A sweep's parameters reach a head, a loss weight and a part of a stack, however deep their keys."""

import json

import pytest

from moe_tune.settings.arguments import read_arguments
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.studies.sweep_file import load_sweep

NANO = ["--config", "configs/nano.yaml"]


def words(argv):
    return read_arguments(argv)[0]


def settings(*overlays, **values):
    argv = [part for path in overlays for part in ("--config", path)]
    return FitSettings([*NANO, *argv, "--config", json.dumps(values)]).settings.model


def test_a_head_and_its_option():
    model = settings(**{"model.head.tau": 0.4, "model.head": "TemperatureHead"})
    assert model.head.init_args.tau == 0.4


def test_a_loss_weight():
    model = settings("configs/losses/balance_z.yaml", **{"model.losses.balance.weight": 0.25})
    assert model.losses["balance"].init_args.weight == 0.25
    assert model.losses["z"].init_args.weight == 0.001


def test_a_class_comes_before_its_options_whatever_their_names():
    model = settings(**{"model.head.beta": 0.5, "model.head.class_path": "AccuracyBiasHead"})
    assert model.head.init_args.beta == 0.5


def test_json_is_read_as_json():
    assert words(["fit", "--config", '{"optimizer.betas": [1e-05, 0.9]}']) == ["fit", "--optimizer.betas=[1e-05, 0.9]"]
    assert words(["fit", "--config", "{a.b: 0.5}"]) == ["fit", "--a.b=0.5"]


def test_a_part_of_a_stack():
    model = settings("configs/head/retuned_temperature.yaml", **{"model.head.parts.temperature.tau": 0.4})
    assert model.head.init_args.parts["temperature"].init_args.tau == 0.4


def test_values_keep_their_types():
    values = {"a.b": None, "a.c": True, "a.d": [1, 2], "a.e": 1e-07, "a.f": "007", "a.g": {"x": 1.5}}
    came = words(["fit", f"--config={json.dumps(values)}"])
    assert came == ["fit", "--a.b=null", "--a.c=true", "--a.d=[1, 2]", "--a.e=1e-07", "--a.f=007", '--a.g={"x": 1.5}']


def test_keys_without_dots_stay_a_configuration_in_its_place():
    argv = ["fit", "--config", '{"a.b": 1, "seed_everything": 3}', "--c", "2"]
    assert words(argv) == ["fit", '--config={"seed_everything": 3}', "--a.b=1", "--c", "2"]


@pytest.mark.parametrize("name", ["temperature", "accuracy_bias", "loss_weights", "heads"])
def test_a_point_of_a_shipped_sweep_is_a_base_and_its_values(name):
    from pathlib import Path

    sweep = load_sweep(Path("configs/sweep") / f"{name}.yaml")
    argv = sweep.arguments({"model.head.tau": 0.5})
    assert argv[-2:] == ["--config", '{"model.head.tau": 0.5}']
    assert argv[:-2] == sweep.base
    assert "--test_after_fit=false" in sweep.base
    assert sweep.maximised
    assert sweep.configs[0] == "configs/nano.yaml"
