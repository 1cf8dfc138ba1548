"""Tuned gates: what is trainable, what is provably frozen, what a trace covers, and that detaching undoes it."""

import hashlib

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, OlmoeConfig

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.jitter import JitterHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.models.families import family_of


@pytest.mark.parametrize(("layers", "trainable"), [("last-5", 655_360), ("all", 2_097_152)])
def test_the_parameters_of_the_real_model(layers, trainable):
    config = OlmoeConfig(
        hidden_size=2048, num_hidden_layers=16, num_experts=64, num_experts_per_tok=8, intermediate_size=1024
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    gated = GatedModel(model, family_of("olmoe"), RetunedHead(), layers)
    assert sum(parameter.numel() for parameter in gated.trainable().values()) == trainable
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == trainable
    assert len(gated.gates) == 16
    assert list(gated.trainable()) == [f"layers.{layer}.weight" for layer in gated.layers]


LORAS = {
    "no LoRA": None,
    "attention": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "router": {"r": 4, "target_parameters": ["mlp.gate.weight"]},
    "experts": {"r": 2, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
}


@pytest.mark.parametrize("lora", LORAS)
def test_detaching_restores_the_model_bit_for_bit_and_takes_a_lora_out_too(lora, family, tiny_model, batch):
    def state():
        wants = {name: parameter.requires_grad for name, parameter in tiny_model.named_parameters()}
        names = [name for name, _ in tiny_model.named_modules()]
        return (
            names,
            set(vars(tiny_model)),
            wants,
            {name: hash_of(one) for name, one in tiny_model.state_dict().items()},
        )

    def hash_of(tensor):
        return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()

    with torch.no_grad():
        stock = tiny_model(**batch).logits
    tiny_model.lm_head.weight.requires_grad_(False)
    before = state()
    gated = GatedModel(tiny_model, family, RetunedHead())
    if LORAS[lora]:
        gated.adapt(LORAS[lora])
    hashes = gated.frozen_hashes()
    with torch.no_grad():
        for parameter in gated.trainable().values():
            parameter.normal_()
        assert not torch.equal(tiny_model(**batch).logits, stock)
    gated.detach()
    with torch.no_grad():
        assert torch.equal(tiny_model(**batch).logits, stock)
    assert state() == before
    assert GatedModel(tiny_model, family, IdentityHead()).frozen_hashes() == hashes


def test_attaching_twice_is_refused_and_changes_nothing(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, RetunedHead())
    with pytest.raises(ModelError, match="detach"):
        GatedModel(tiny_model, family, IdentityHead())
    tiny_model(**batch)
    assert sorted(gated.trace.outputs) == [0, 1, 2]


@pytest.mark.parametrize("captured_before", [False, True])
def test_transformers_still_captures_the_logits_of_every_layer(family, tiny_model, batch, captured_before):
    if captured_before:
        tiny_model(**batch, output_router_logits=True)
    gated = GatedModel(tiny_model, family, RetunedHead(), [1])
    gated.trainable()["layers.1.weight"].data.normal_()
    with torch.no_grad():
        captured = tiny_model(**batch, output_router_logits=True).router_logits
    assert len(captured) == 3
    for layer, logits_TE in enumerate(captured):
        assert torch.equal(logits_TE, gated.trace.outputs[layer].logits_TE)
        assert not torch.allclose(logits_TE.sum(-1), torch.ones(len(logits_TE))), "raw logits, not probabilities"
    gated.detach()
    assert len(tiny_model(**batch, output_router_logits=True).router_logits) == 3


def test_frozen_hashes_prove_what_was_touched(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, RetunedHead())
    before = gated.frozen_hashes()
    assert set(before) == {name for name, _ in tiny_model.named_parameters() if ".head." not in name} | {
        name for name, _ in tiny_model.named_buffers()
    }
    optimiser = torch.optim.AdamW(gated.trainable().values(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        tiny_model(**batch).logits.logsumexp(-1).sum().backward()
        optimiser.step()
    assert gated.frozen_hashes() == before
    name = family.gate_path.join(["model.layers.2.", ".weight"])
    with torch.no_grad():
        tiny_model.get_parameter(name)[0, 0] += 1e-3
    assert {key for key, value in gated.frozen_hashes().items() if value != before[key]} == {name}


def test_buffers_that_are_not_saved_are_hashed_too(family, tiny_model):
    gated = GatedModel(tiny_model, family, RetunedHead())
    before = gated.frozen_hashes()
    name, buffer = next(iter(tiny_model.named_buffers()))
    assert name not in tiny_model.state_dict()
    buffer += 1
    assert {key for key, value in gated.frozen_hashes().items() if value != before[key]} == {name}


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor(True), torch.tensor(1.5, dtype=torch.bfloat16)])
def test_a_buffer_of_one_number_is_hashed_too(value, family, tiny_model):
    gated = GatedModel(tiny_model, family, RetunedHead())
    others = gated.frozen_hashes()
    tiny_model.register_buffer("steps", value)
    assert gated.frozen_hashes().items() - others.items() == {
        ("steps", hashlib.sha256(value.reshape(1).view(torch.uint8).numpy().tobytes()).hexdigest())
    }


def test_a_session_restores_what_it_changed_also_after_an_error(family, tiny_model):
    gated = GatedModel(tiny_model, family, TemperatureHead(tau=0.2))
    with gated.session() as outside:
        before = {name: value for name, value in vars(outside).items() if name != "trace"}

    def failing():
        with gated.session([gated.bind(IdentityHead(), "all")], "all", ["hidden"], base_only=True) as session:
            assert (session.scope, session.needs, session.bypassed) == ("all", {"hidden"}, True)
            assert gated.heads_per_answer == len(session.panel) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert {name: value for name, value in vars(outside).items() if name != "trace"} == before


def test_tokens_give_logits_at_the_answer_and_the_trace(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, TemperatureHead(tau=0.2), "all", "all")
    last_B = batch["attention_mask"].sum(1) - 1
    with torch.no_grad():
        whole = tiny_model(**batch).logits
        came = gated(batch["input_ids"], batch["attention_mask"])
        first = gated(batch["input_ids"], batch["attention_mask"], 0 * last_B)
    # The output embedding multiplies fewer rows, whose products some kernels round otherwise.
    torch.testing.assert_close(came, whole[torch.arange(len(whole)), last_B])
    torch.testing.assert_close(first, whole[:, 0])
    assert sorted(gated.trace.outputs) == [0, 1, 2]


def test_the_trace_covers_every_layer_and_closes(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, RetunedHead(), [1], needs=["hidden", "base_logits"])
    with pytest.raises(ModelError, match="forward"):
        _ = gated.trace
    tiny_model(**batch)
    trace = gated.trace
    assert not trace.is_open
    assert sorted(trace.outputs) == [0, 1, 2]
    assert torch.equal(trace.real_T, batch["attention_mask"].bool().flatten())
    for layer, output in trace.outputs.items():
        weight_ED = gated.gates[layer].weight
        torch.testing.assert_close(output.base_logits_TE, functional.linear(output.hidden_TD, weight_ED))
    tiny_model(batch["input_ids"])
    assert gated.trace is not trace
    assert gated.trace.real_T.all(), "without a mask every token is real"


def test_a_trace_closes_when_the_forward_call_fails(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, IdentityHead())
    tiny_model.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_model(**batch)
    assert not gated.trace.is_open


def test_embeddings_may_come_instead_of_ids(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, RetunedHead(), "all", "all")
    with torch.no_grad():
        by_ids = tiny_model(**batch).logits
        embedded = tiny_model.get_input_embeddings()(batch["input_ids"])
        assert torch.equal(tiny_model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits, by_ids)
    assert torch.equal(gated.trace.real_T, batch["attention_mask"].bool().flatten())


def test_a_gate_called_by_itself_says_what_to_do(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, IdentityHead())
    with pytest.raises(ModelError, match="whole model"):
        gated.gates[0](torch.zeros(2, 16))
    tiny_model(**batch)
    with pytest.raises(ModelError, match="whole model"):
        gated.gates[0](torch.zeros(2, 16))


@pytest.mark.parametrize("padded", [False, True])
def test_generation_with_a_cache_equals_that_of_the_untouched_model(family, tiny_model, batch, padded):
    ids_BS = batch["input_ids"][:1, :6]
    mask_BS = torch.ones_like(ids_BS)
    if padded:
        ids_BS, mask_BS = functional.pad(ids_BS, (2, 0)), functional.pad(mask_BS, (2, 0))
    options = {"attention_mask": mask_BS, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    stock = tiny_model.generate(ids_BS, **options)
    gated = GatedModel(tiny_model, family, IdentityHead(), "all", "answer", "native")
    assert torch.equal(tiny_model.generate(ids_BS, **options), stock)
    assert gated.trace.answer_T.tolist() == [True], "in generation every new token is an answer position"


def test_a_head_at_the_answer_acts_on_every_generated_token(family, tiny_model, batch):
    """Step by step with a cache equals one pass over the whole text at scope ``all`` with the prompt left alone."""
    gated = GatedModel(tiny_model, family, RetunedHead(), [2])
    gated.trainable()["layers.2.weight"].data.normal_()
    prompt, more = batch["input_ids"][:1, :5], batch["input_ids"][:1, 5:]
    with torch.no_grad():
        step = tiny_model(prompt, use_cache=True)
        logits = [step.logits[:, -1]]
        for index in range(more.shape[1]):
            step = tiny_model(more[:, index : index + 1], past_key_values=step.past_key_values, use_cache=True)
            logits.append(step.logits[:, -1])
        with gated.session(scope="all"):
            whole = tiny_model(batch["input_ids"][:1]).logits[0, 4:]
    # The head sits in the last layer: it changes no key or value, so the prompt's routing there cannot matter.
    torch.testing.assert_close(torch.cat(logits), whole, atol=1e-5, rtol=1e-4)


def test_training_the_answer_changes_no_earlier_token(family, tiny_model, batch):
    """The basis of the one-token path: at scope ``answer`` every earlier position keeps its logits."""
    gated = GatedModel(tiny_model, family, RetunedHead(), "all", "answer")
    with torch.no_grad():
        before = tiny_model(**batch).logits
        for parameter in gated.trainable().values():
            parameter.normal_()
        after = tiny_model(**batch).logits
    earlier_BS = (gated.trace.real_T & ~gated.trace.answer_T).view(5, 9)
    torch.testing.assert_close(after[earlier_BS], before[earlier_BS], atol=1e-6, rtol=1e-5)
    answer_BS = gated.trace.answer_T.view(5, 9)
    assert ((after[answer_BS] - before[answer_BS]).abs().amax(-1) > 1e-4).all()


def test_autocast_does_not_reach_float32_routing(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, RetunedHead(), "all", "all")
    for parameter in gated.trainable().values():
        parameter.data.normal_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_TD = torch.randn(45, 16).bfloat16().float()
        tiny_model(**batch)
        logits_TE, weights_TK, experts_TK = gated.gates[1](hidden_TD)
    wanted = gated.gates[1](hidden_TD)
    for came, value in zip((logits_TE, weights_TK, experts_TK), wanted, strict=True):
        assert came.dtype == value.dtype
        assert torch.equal(came, value)
    assert all(output.logits_TE.dtype == torch.float32 for output in gated.trace.outputs.values())


def test_native_routing_follows_autocast_as_the_untouched_model_does(family, tiny_model, batch):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        stock = tiny_model(**batch).logits
        GatedModel(tiny_model, family, IdentityHead(), "all", "all", "native")
        assert torch.equal(tiny_model(**batch).logits, stock)


def test_an_unknown_extra_is_refused_and_changes_nothing(family, tiny_model):
    with pytest.raises(ConfigError, match="base_logits"):
        GatedModel(tiny_model, family, IdentityHead(), needs=["hiden"])
    GatedModel(tiny_model, family, IdentityHead())


def test_whether_heads_train_is_asked_of_them(family, tiny_model):
    """Lightning restores modes module by module after a validation, and calls nobody's ``train``."""
    gated = GatedModel(tiny_model, family, RetunedHead())
    gated.train(False)
    for head in gated.heads.values():
        head.training = True
    assert gated.training


def test_own_probabilities_are_the_decisions_own_with_the_noise_it_drew(family, tiny_model, batch):
    gated = GatedModel(tiny_model, family, Stack({"retuned": RetunedHead(), "jitter": JitterHead()}), "all")
    gated.train(True)
    logits = []
    for needs in ((), ("own_probs",)):
        torch.manual_seed(0)
        with gated.session(needs=needs):
            logits.append(gated(batch["input_ids"], batch["attention_mask"]))
    assert torch.equal(*logits), "what is recorded changes no noise"
    for layer, output in gated.trace.outputs.items():
        assert torch.equal(output.own_probs_TE, output.probs_TE)
        parameters = list(gated.trainable().values())
        grads = torch.autograd.grad(output.own_probs_TE[:, 0].sum(), parameters, retain_graph=True, allow_unused=True)
        reached = [name for name, grad in zip(gated.trainable(), grads, strict=True) if grad is not None]
        assert all(name.startswith(f"layers.{layer}.") for name in reached)
        assert reached
