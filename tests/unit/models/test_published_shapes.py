"""The sizes of published models come to the number of parameters that their makers give, all and per token."""

import pytest
from transformers import AutoConfig

from moe_tune.models.base_model import BaseModel
from moe_tune.models.published_shapes import OLMOE, PUBLISHED
from moe_tune.models.shapes import model_shape, shape_of

BILLIONS = {
    OLMOE: (6.9, 1.3),
    "Qwen/Qwen3-30B-A3B": (30.5, 3.3),
    "openai/gpt-oss-20b": (20.9, 3.6),
    "deepseek-ai/DeepSeek-V2-Lite": (15.7, 2.4),
    "mistralai/Mixtral-8x7B": (46.7, 12.9),
}
"""As published: all parameters, and those that a token uses; of gpt-oss and DeepSeek without the input embedding."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_the_makers_give(name):
    config = AutoConfig.for_model(**PUBLISHED[name])
    shape = shape_of(config)
    every, used = BILLIONS[name]
    assert shape.total / 1e9 == pytest.approx(every, abs=0.06)
    embedding = config.vocab_size * config.hidden_size / 1e9
    assert min(abs(shape.active / 1e9 - beside - used) for beside in (0.0, embedding)) < 0.06


def test_a_known_model_needs_no_hub(monkeypatch):
    monkeypatch.setattr(BaseModel, "load_config", lambda self: pytest.fail("its configuration was asked for"))
    shape = model_shape(BaseModel("Qwen/Qwen3-30B-A3B", "0" * 40))
    assert shape.published
    assert len(shape.moe_layers) == 48
