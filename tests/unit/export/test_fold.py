"""Heads folded into the gates of many families: logits of the stock model with the new tensors, and what is refused."""

import pytest
import torch
from found_models import IN_CI, found_model

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.export.fold import folded_gates
from moe_tune.export.stock_folder import at, prove_loaded, write_stock
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.loss_free_bias import LossFreeBiasHead
from moe_tune.heads.low_rank import LowRankHead
from moe_tune.heads.mlp import MlpHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.scale_bias import ScaleBiasHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.strength import Strength
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.models.base_model import BaseModel

TEMPERED = {"weight": Strength(LowRankHead(), 0.6), "temperature": TemperatureHead(tau=0.7, mass="raw")}
BIASED = ("gpt_oss",)
"""Types whose gates have a bias of the logits."""
TOKENS_BS = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(3))


def shake(gated):
    """Move every tensor of the heads away from the start."""
    state = gated.state()
    draw = torch.Generator().manual_seed(0)
    gated.load_state({k: v + 0.2 * torch.randn(v.shape, generator=draw) for k, v in state.items()}, "test")
    gated.train(False)


def moved(model_type, head):
    """Return a tiny model with a head that is no longer what it was at the start."""
    model, family = found_model(model_type)
    gated = GatedModel(model, family, head, "all", "all")
    shake(gated)
    return model, gated


def same_with_folded_tensors(model, gated):
    """Put the folded tensors into the stock model, whose logits have to be those with the head on."""
    folded = folded_gates(gated)
    with torch.no_grad():
        wanted, before = model(TOKENS_BS).logits, {}
        gated.detach()
        stock = model(TOKENS_BS).logits
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, value in folded.new.items():
            before[name] = tensors[name].clone()
            tensors[name].copy_(value)
        torch.testing.assert_close(model(TOKENS_BS).logits, wanted, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(wanted, stock, atol=1e-4), "the head has to do something"
    assert all(torch.equal(folded.before[name], value) for name, value in before.items())
    return folded


@pytest.mark.parametrize("model_type", IN_CI)
def test_a_retuned_weight_folds_in_every_family(model_type):
    model, gated = moved(model_type, RetunedHead())
    folded = same_with_folded_tensors(model, gated)
    assert folded.layers == sorted(folded.layers)


@pytest.mark.parametrize("model_type", IN_CI)
def test_a_temperature_folds_where_logits_choose_and_is_refused_elsewhere(model_type):
    model, family = found_model(model_type)
    layer, block = next(iter(family.moe_layers(model).items()))
    if not family.rule(family.replay(block, layer)).described:
        return  # such a family takes no temperature to begin with
    model, gated = moved(model_type, Stack(TEMPERED))
    if gated.rule.chooses_by_logits:
        same_with_folded_tensors(model, gated)
        return
    with pytest.raises(ConfigError, match=r"TemperatureHead: this family also chooses by something else"):
        folded_gates(gated)


@pytest.mark.parametrize("model_type", IN_CI)
def test_constants_fold_into_the_bias_of_gates_that_have_one(model_type):
    model, gated = moved(model_type, ScaleBiasHead())
    if model_type in BIASED:
        same_with_folded_tensors(model, gated)
        return
    with pytest.raises(ConfigError, match=r"ScaleBiasHead: it adds a constant .* gate has no bias"):
        folded_gates(gated)


def test_a_bias_of_the_choice_folds_into_a_correction_that_is_zero():
    model, family = found_model("ernie4_5_moe")
    for name, one in model.named_buffers():
        if "bias" in name:
            one.zero_()
    for name, one in model.named_parameters():
        if "correction_bias" in name:
            one.data.zero_()
    gated = GatedModel(model, family, LossFreeBiasHead(), "all", "all")
    for head in gated.heads.values():
        head.bias_E.copy_(0.1 * torch.randn(head.bias_E.shape))
    folded = same_with_folded_tensors(model, gated)
    assert any("correction_bias" in name for name in folded.new)


def test_what_no_gate_can_be_is_refused_with_the_part_that_stands_in_the_way():
    _, gated = moved("olmoe", Stack({"weight": RetunedHead(), "network": MlpHead()}))
    with pytest.raises(ConfigError, match="but got MlpHead: its logits are not those of one router weight"):
        folded_gates(gated)


def test_a_head_that_says_it_folds_and_does_not_is_found_out():
    class HalfFolded(RetunedHead):
        """Says its weight is another than it scores by."""

        def router_weight(self, weight_ED):
            return 1.1 * super().router_weight(weight_ED)

    _, gated = moved("olmoe", HalfFolded())
    with pytest.raises(ModelError, match="folded gate that decides as HalfFolded does but that of layer 0"):
        folded_gates(gated)


def test_a_lora_is_refused():
    model, family = found_model("olmoe")
    gated = GatedModel(model, family, RetunedHead(), "all", "all")
    gated.adapt({"r": 2, "target_modules": ["q_proj"]})
    with pytest.raises(ConfigError, match="heads alone but got a LoRA"):
        folded_gates(gated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", IN_CI)
def test_only_routers_differ_in_the_files_of_a_family(model_type, dtype, tmp_path):
    """As transformers writes them, in its layout of experts: found by name or by content, and loaded by it again."""
    model, family = found_model(model_type, dtype)
    source, target = tmp_path / "source", tmp_path / "target"
    model.save_pretrained(source, max_shard_size="20KB")
    target.mkdir()
    base = BaseModel(str(source), dtype=str(dtype).removeprefix("torch."), experts_implementation="eager")
    model, family = base.load()
    gated = GatedModel(model, family, RetunedHead(), "all", "all")
    shake(gated)
    folded, before = folded_gates(gated), gated.hashes_at_load
    count = write_stock(base, folded.new, folded.before, target)
    assert count >= len(before) / 2
    prove_loaded(base, before, folded.new, target)
    with pytest.raises(ModelError, match="differs from the base model in its routers alone"):
        prove_loaded(base, before, {}, target)
    other, _ = at(base, target).load()
    kept = dict(other.named_parameters()) | dict(other.named_buffers())
    assert all(torch.equal(kept[name], value) for name, value in folded.new.items())
