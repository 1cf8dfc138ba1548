"""Families that are found by looking decide, to the last bit, as their own gates do; and what does not go is said."""

from dataclasses import replace

import pytest
import torch
from found_models import IN_CI, TYPES, found_model, refusal_of
from test_answer_path import LETTERS, QUESTIONS, Side

from moe_tune.answer_path.forward import answer_logits
from moe_tune.answer_path.proof import prove_answer_path
from moe_tune.base.errors import ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import NOT_SERVED, family_of
from moe_tune.models.proof import prove_router

DTYPES = (torch.float32, torch.bfloat16)
EACH = [one if one in IN_CI else pytest.param(one, marks=pytest.mark.slow) for one in TYPES]


def questions(lengths, left=False):
    width = max(lengths)
    ids_BS = torch.randint(3, 60, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    place_S = torch.arange(width)
    real = [(place_S >= width - length) if left else (place_S < length) for length in lengths]
    return {"input_ids": ids_BS, "attention_mask": torch.stack(real).long()}


def test_forty_types_are_found():
    assert len(TYPES) >= 40
    assert not NOT_SERVED.keys() & set(TYPES)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", EACH)
def test_a_head_at_its_start_changes_no_bit(model_type, dtype):
    model, family = found_model(model_type, dtype)
    batch = questions((9, 5, 9))
    with torch.no_grad():
        stock = model(**batch, use_cache=False).logits
        for head, scope in ((IdentityHead(), "all"), (RetunedHead(), "all"), (RetunedHead(), "answer")):
            gated = GatedModel(model, family, head, "all", scope, "native")
            assert torch.equal(model(**batch, use_cache=False).logits, stock)
            gated.detach()
        assert torch.equal(model(**batch, use_cache=False).logits, stock)


@pytest.mark.parametrize("model_type", EACH)
def test_a_checkpoint_on_disk_is_loaded_and_served(model_type, tmp_path):
    model, _ = found_model(model_type)
    model.save_pretrained(tmp_path)
    loaded, family = BaseModel(str(tmp_path)).load()
    with torch.no_grad():
        stock = model(**questions((9, 5)), use_cache=False).logits
        GatedModel(loaded, family, RetunedHead(), "all", "all", "native")
        assert torch.allclose(loaded(**questions((9, 5)), use_cache=False).logits, stock, atol=1e-5)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("model_type", EACH)
def test_what_is_generated_has_the_same_logits(model_type, rows, left):
    model, family = found_model(model_type)
    batch = questions([9, 4, 9, 7, 9, 6, 9, 8][:rows], left)
    how = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    stock = model.generate(**batch, **how, pad_token_id=0)
    GatedModel(model, family, RetunedHead(), "all", "all", "native")
    came = model.generate(**batch, **how, pad_token_id=0)
    assert torch.equal(came.sequences, stock.sequences)
    assert all(torch.equal(one, other) for one, other in zip(came.logits, stock.logits, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", EACH)
def test_ten_thousand_tokens_get_the_experts_and_weights_of_the_stock_gate(model_type, dtype):
    model, family = found_model(model_type, dtype)
    layer, block = next(reversed(family.moe_layers(model).items()))
    gate, owner = block.get_submodule(family.gate_path), block.get_submodule(family.gate_path.rpartition(".")[0])
    replay = family.replay(block, layer)
    beside = [getattr(owner, name) for name in ("expert_bias", "e_score_correction_bias") if name in replay.beside]
    hidden_TD = torch.randn(10_000, replay.width).to(dtype)
    with torch.no_grad():
        out = gate(hidden_TD if model_type != "afmoe" else hidden_TD[None], *beside)
        weights_TK, experts_TK = (one.reshape(len(hidden_TD), -1) for one in out[1:])
        logits_TE, read_TD = family.project(replay, gate, gate.forward, hidden_TD)
        came = decide(None, family.rule(replay), read_TD, logits_TE, stock_ties=True)
    assert torch.equal(came.experts_TK, experts_TK)
    assert torch.equal(came.weights_TK.to(weights_TK.dtype), weights_TK)
    assert len(experts_TK.unique()) > replay.num_experts // 2


@pytest.mark.parametrize("model_type", EACH)
def test_a_changed_logit_changes_the_choice_as_the_gate_would(model_type):
    """Against the stock gate with another weight: what a retuned head decides is what that gate decides."""
    model, family = found_model(model_type)
    layer, block = next(reversed(family.moe_layers(model).items()))
    replay = family.replay(block, layer)
    gate, rule = replay.gate, family.rule(replay)
    hidden_TD = torch.randn(500, replay.width)
    with torch.no_grad():
        before_TE, read_TD = family.project(replay, gate, gate.forward, hidden_TD)
        change_ED = 0.5 * torch.randn_like(replay.weight(gate))
        asked_TE = before_TE + (read_TD @ change_ED.T).to(before_TE.dtype)
        replay.weight(gate).add_(change_ED)
        _, weights_TK, experts_TK = replay.stock(hidden_TD)
        came = decide(None, rule, read_TD, asked_TE)
    same_T = (came.experts_TK.sort(-1).values == experts_TK.sort(-1).values).all(-1)
    assert same_T.float().mean() > 0.99, "the sum in another order may decide a near tie"
    came_TE = torch.zeros_like(before_TE).scatter(-1, came.experts_TK, came.weights_TK.to(before_TE.dtype))
    stock_TE = torch.zeros_like(before_TE).scatter(-1, experts_TK, weights_TK.to(before_TE.dtype))
    assert torch.allclose(came_TE[same_T], stock_TE[same_T], atol=1e-5)


def test_a_closed_form_off_by_a_factor_is_caught():
    model, family = found_model("deepseek_v3")
    block = family.moe_layers(model)[2]
    replay = family.replay(block, 2)
    rule = family.rule(replay)
    prove_router(family, block, replay, rule)
    with pytest.raises(ModelError, match="gives another set of experts"):
        prove_router(family, block, replay, replace(rule, form=replace(rule.form, factor_E=(1.0,))))


def test_a_block_with_a_buffer_more_works_and_keeps_it():
    model, family = found_model("mixtral")
    batch = questions((5, 9))
    for block in family.moe_layers(model).values():
        block.mlp.register_buffer("more", torch.ones(3))
    with torch.no_grad():
        stock = model(**batch).logits
        GatedModel(model, family, RetunedHead(), "all", "all", "native")
        assert torch.equal(model(**batch).logits, stock)
    assert "model.layers.0.mlp.more" in model.state_dict()


def test_a_gate_that_reads_a_tensor_of_nobodys_is_refused():
    model, family = found_model("lfm2_moe")
    batch = questions((5, 9))
    GatedModel(model, family, RetunedHead(), "all", "all")
    gate = model.model.layers[2].feed_forward.gate
    gate.register_forward_pre_hook(lambda _, given: (given[0], given[1] + 1))
    with pytest.raises(ModelError, match="other tensors"):
        model(**batch)


@pytest.mark.parametrize("model_type", ["llama", "olmo2"])
def test_a_model_without_experts_is_refused_by_name(model_type):
    with pytest.raises(ModelError, match="list families"):
        family_of(model_type)


def test_an_unknown_layout_says_what_was_looked_for_and_what_is_near():
    model, family = found_model("mixtral")
    for layer in model.model.layers:
        layer.mlp.experts = torch.nn.ModuleList([torch.nn.Linear(16, 16) for _ in range(4)])
    with pytest.raises(ModelError, match=r"3-D weights.*Nearest: .*mlp\.gate \(MixtralTopKRouter\)"):
        family.moe_layers(model)


@pytest.mark.parametrize("model_type", NOT_SERVED)
def test_what_does_not_go_is_refused_with_its_reason(model_type):
    with pytest.raises(ModelError, match=NOT_SERVED[model_type][:20]):
        family_of(model_type)


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("model_type", EACH)
def test_kept_keys_answer_as_full_prompts_do(model_type, shots, record_property):
    """Prompts share long beginnings, and are longer than the window of the families that have one."""
    if reason := refusal_of(model_type):
        record_property("exempt", reason)
        return
    model, family = found_model(model_type)
    asked = torch.arange(QUESTIONS)
    with torch.no_grad():
        for kept in (True, False):
            side = Side(model, family, RetunedHead(), shots, kept)
            answers = side.logits(asked)
            side.routers.detach()
            if kept:
                came = answers
    assert torch.allclose(came, answers, atol=1e-5 * float(answers.abs().max().clamp(min=1)))
    assert torch.equal(came[:, LETTERS].argmax(-1), answers[:, LETTERS].argmax(-1))


def test_an_attention_with_an_unknown_argument_is_refused_by_name():
    model, family = found_model("mixtral")
    side = Side(model, family, RetunedHead(), 0, kept=True)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda _, args, given: (args, {**given, "tilt": 2}), with_kwargs=True)
    with pytest.raises(ModelError, match="MixtralAttention also passes \\['tilt'\\]"):
        side.logits(torch.arange(4))


def test_the_answer_path_is_proved_before_it_is_used():
    model, family = found_model("mixtral")
    gated = GatedModel(model, family, RetunedHead(), "last-2", "answer")
    shape = family.state_shape(model.config, 1, (0,), torch.float32)
    prove_answer_path(gated, shape)
    model.model.layers[2].self_attn.scaling *= 1.5
    interface = model.model.layers[2].self_attn.register_forward_pre_hook(
        lambda module, *_: setattr(module, "scaling", 1.1 * module.scaling)
    )
    with pytest.raises(ModelError, match="off by"):
        prove_answer_path(gated, shape)
    interface.remove()


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("qwen2_moe", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 3}, "not told"),
        ("phimoe", {"sliding_window": 8}, "not told"),
        ("gemma4_text", {"hidden_size_per_layer_input": 8}, "differ from layer to layer"),
        ("gemma4_text", {"num_kv_shared_layers": 1}, "differ from layer to layer"),
        ("mixtral", {"layer_types": ["chunked_attention"] * 3}, "chunked attention"),
    ],
)
def test_a_configuration_that_keeps_no_plain_keys_is_refused_with_its_reason(model_type, changes, reason):
    family = family_of(model_type)
    config = family.tiny_config()
    for name, value in changes.items():
        setattr(config, name, value)
    assert reason in family.refusals(config).answer_path
    assert family.state_shape(config, 1, (0,), torch.float32).head_dim == 1, "nothing is kept"


def test_an_attention_that_does_not_say_its_window_is_refused():
    model, family = found_model("qwen2_moe")
    side = Side(model, family, RetunedHead(), 0, kept=True)
    model.config.layer_types = ["sliding_attention"] * 3
    states = side.states.batch(torch.arange(4))
    with pytest.raises(ModelError, match="told of its window"):
        answer_logits(side.routers, side.shape, states)
