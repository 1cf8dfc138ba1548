"""Every head on families that are found by looking, above all those that choose how many experts, or which."""

import numpy as np
import pytest
import torch
from found_models import ONE_OF_EACH, found_model
from head_cases import CASES, IDS, required

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.mlp import MlpHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.routes import RoutesHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.strength import Strength
from moe_tune.heads.temperature import TemperatureHead

DESCRIBED = [one for one in ONE_OF_EACH if one != "phimoe"]
"""Phi-MoE's router weighs in no closed form, and takes heads that change logits alone."""
IDS_BS = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(1))


def seen(model, family, head, dtype="native"):
    """Return the logits with a head, and the trace."""
    gated = GatedModel(model, family, head, "all", "all", dtype)
    try:
        with torch.no_grad():
            return model(input_ids=IDS_BS, use_cache=False).logits, gated.trace, gated.rule
    finally:
        gated.detach()


@pytest.mark.parametrize("model_type", DESCRIBED)
def test_the_checkpoints_own_k_and_its_own_routes_change_no_bit(model_type, tmp_path):
    model, family = found_model(model_type)
    with torch.no_grad():
        stock = model(input_ids=IDS_BS, use_cache=False).logits
    _, trace, rule = seen(model, family, IdentityHead())
    layers = sorted(trace.outputs)
    columns = {"id": np.repeat(list("abc"), 9), "token": np.tile(np.arange(9), 3), "token_id": IDS_BS.flatten().numpy()}
    expert_NLK = torch.stack([trace.outputs[layer].experts_TK for layer in layers], 1).numpy()
    np.savez(tmp_path / "own.npz", **columns, layer=np.array(layers), expert=expert_NLK)
    for head in (FixedKHead(rule.top_k), FixedKHead(rule.top_k, True), RoutesHead(str(tmp_path / "own.npz"))):
        assert torch.equal(seen(model, family, head)[0], stock), type(head).__name__


@pytest.mark.parametrize("model_type", DESCRIBED)
def test_another_k_keeps_the_total_weight_where_that_is_asked_for(model_type):
    model, family = found_model(model_type)
    _, base, rule = seen(model, family, IdentityHead(), "float32")
    for k in {1, rule.top_k + 1, rule.num_experts}:
        logits, trace, _ = seen(model, family, FixedKHead(k, renormalise=True), "float32")
        first = min(base.outputs)  # the layers above read what this one has changed
        came, wanted = trace.outputs[first], base.outputs[first]
        assert ((came.weights_TK != 0).sum(-1) <= k).all()
        assert logits.isfinite().all()
        torch.testing.assert_close(came.weights_TK.sum(-1), wanted.weights_TK.sum(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["deepseek_v3", "dots1", "gemma4_text", "phimoe"])
@pytest.mark.parametrize(("kind", "mode"), CASES, ids=IDS)
def test_a_head_starts_trains_and_is_finite_or_is_refused(kind, mode, model_type):
    model, family = found_model(model_type)
    with torch.no_grad():
        stock = model(input_ids=IDS_BS, use_cache=False).logits
    head = kind(**{**required(kind), **mode})
    refused = (model_type == "phimoe" and head.beyond_logits()) or (
        model_type != "gemma4_text" and head.traits.chosen_by_logits
    )
    if refused:
        with pytest.raises(ConfigError, match=r"expected a head .* but got \w+"):
            GatedModel(model, family, head, "all", "all")
        return
    gated = GatedModel(model, family, head, "all", "all")
    if head.traits.exact_start:
        with torch.no_grad():
            assert torch.allclose(model(input_ids=IDS_BS, use_cache=False).logits, stock, atol=1e-4)
    gated.train(True)
    logits = model(input_ids=IDS_BS, use_cache=False).logits
    assert logits.isfinite().all()
    if parameters := gated.trainable():
        logits.logsumexp(-1).sum().backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in parameters.values())


@pytest.mark.parametrize("model_type", DESCRIBED)
def test_fewer_experts_are_the_best_ones_in_the_models_own_numerics_too(model_type):
    """Some gates do not put the best first."""
    model, family = found_model(model_type)
    best = [seen(model, family, FixedKHead(1), dtype)[1] for dtype in ("float32", "native")]
    for one, other in zip(*(trace.outputs.values() for trace in best), strict=True):
        assert torch.equal(one.experts_TK[:, 0], other.experts_TK[:, 0])


@pytest.mark.parametrize("model_type", DESCRIBED)
def test_a_heads_weights_stand_beside_the_gates_own_in_half_precision(model_type):
    model, family = found_model(model_type, torch.bfloat16)
    mask_BS = torch.ones_like(IDS_BS)
    mask_BS[0, 4:] = 0
    GatedModel(model, family, TemperatureHead(tau=0.5), "all", "answer", "native")
    with torch.no_grad():
        assert model(input_ids=IDS_BS, attention_mask=mask_BS, use_cache=False).logits.isfinite().all()


@pytest.mark.parametrize(("model_type", "module"), [("phimoe", "router"), ("gemma4_text", "proj")])
def test_a_lora_in_a_routers_place_is_refused(model_type, module):
    model, family = found_model(model_type)
    gated = GatedModel(model, family, IdentityHead(), "all", "all")

    def adapted():
        gated.adapt({"r": 2, "target_modules": [module]})
        return model(input_ids=IDS_BS, use_cache=False)

    with pytest.raises((ConfigError, ModelError), match=r"adapter on the router|in the place of a router"):
        adapted()


@pytest.mark.parametrize("head", [Stack({"a": RetunedHead(), "b": MlpHead()}), Strength(RetunedHead(), 0.5)])
def test_heads_made_of_heads_that_change_logits_alone_are_served_without_a_closed_form(head):
    model, family = found_model("phimoe")
    assert head.beyond_logits() == []
    gated = GatedModel(model, family, head, "all", "all")
    with torch.no_grad():
        assert model(input_ids=IDS_BS, use_cache=False).logits.isfinite().all()
    gated.detach()
    with pytest.raises(ConfigError, match="TemperatureHead"):
        GatedModel(model, family, Stack({"a": RetunedHead(), "b": TemperatureHead()}), "all", "all")
