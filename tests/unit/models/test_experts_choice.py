"""The experts implementation is measured once and remembered; a spoilt memory costs one measurement."""

import json

import pytest
import torch

from moe_tune.models import experts_choice
from moe_tune.models.experts_choice import CANDIDATES, cache_file, measured_choice


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    """Keep the memory in a folder of the test and count the measurements, each with a made-up duration."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def seconds(model, family, name, tokens, repeats):
        asked.append(name)
        return {"eager": 2.0, "grouped_mm": 1.0, "blocked": 3.0}[name]

    monkeypatch.setattr(experts_choice, "_seconds", seconds)
    return asked


def test_the_faster_one_is_measured_once_and_remembered(family, tiny_model, calls):
    assert measured_choice(tiny_model, family) == "grouped_mm"
    assert measured_choice(tiny_model, family) == "grouped_mm"
    assert calls == list(CANDIDATES)
    assert list(json.loads(cache_file().read_text()).values()) == ["grouped_mm"]


def test_another_dtype_or_shape_is_measured_anew(family, build_model, calls):
    measured_choice(build_model(family), family)
    measured_choice(build_model(family).bfloat16(), family)
    measured_choice(build_model(family, num_experts=4), family)
    assert len(calls) == 3 * len(CANDIDATES)
    assert len(json.loads(cache_file().read_text())) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": "nonsense"}'])
def test_a_spoilt_memory_is_measured_anew(family, tiny_model, calls, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert measured_choice(tiny_model, family) == "grouped_mm"
    assert calls == list(CANDIDATES)
    assert "grouped_mm" in json.loads(cache_file().read_text()).values()


def test_a_memory_that_cannot_be_written_does_not_stop_a_run(family, tiny_model, calls, tmp_path):
    (tmp_path / "moe_tune").write_text("a file where the folder should be")
    assert measured_choice(tiny_model, family) == "grouped_mm"


def test_a_real_measurement_leaves_the_model_as_it_was(family, tiny_model, monkeypatch):
    monkeypatch.undo()
    before = tiny_model.config._experts_implementation
    for name in CANDIDATES:
        assert 0 < experts_choice._seconds(tiny_model, family, name, tokens=16, repeats=1) < 60
        assert tiny_model.config._experts_implementation == before


def test_the_default_device_does_not_matter(family, tiny_model, monkeypatch):
    """Lightning loads models under the GPU's default device; here another one stands for it."""
    monkeypatch.undo()
    with torch.device("meta"):
        assert experts_choice._seconds(tiny_model, family, "eager", tokens=16, repeats=1) > 0


def test_a_failed_measurement_leaves_the_model_as_it_was(family, tiny_model, monkeypatch):
    monkeypatch.undo()
    family.moe_layers(tiny_model)[0].mlp.experts.register_forward_pre_hook(lambda *_: 1 / 0)
    before = tiny_model.config._experts_implementation
    with pytest.raises(ZeroDivisionError):
        experts_choice._seconds(tiny_model, family, "grouped_mm", tokens=16, repeats=1)
    assert tiny_model.config._experts_implementation == before
