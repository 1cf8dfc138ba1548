"""A panel of one acts on whole prompts as the same head attached to the model does, in every kind of family."""

import pytest
import torch
from found_models import IN_CI, found_model

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.dropped_experts import DroppedExperts
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.heads.swapped_expert import SwappedExpert
from moe_tune.interventions.heads import entry
from moe_tune.interventions.plan import single

HEADS = {
    "mask": lambda layer: MaskedExperts({layer: [2]}),
    "drop": lambda layer: DroppedExperts({layer: [2]}),
    "swap": lambda layer: SwappedExpert({layer: 2}),
}


@pytest.mark.parametrize("scope", ["answer", "all"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("model_type", IN_CI)
def test_a_panel_of_one_is_the_head_attached(model_type, kind, scope, batch, exempt):
    model, family = found_model(model_type)
    layer = max(family.moe_layers(model))
    rows = {name: value[:2] for name, value in batch.items()}
    ids_BS, mask_BS = rows["input_ids"], rows["attention_mask"]
    gated = GatedModel(model, family, IdentityHead(), "all", scope)
    with torch.no_grad():
        try:
            heads = entry(gated, {}, single(kind, layer, 2), {})
        except ConfigError as fault:
            exempt(f"refused: {fault}")
            return
        with gated.session([heads], scope=scope):
            came = gated(ids_BS, mask_BS)
        untouched = gated(ids_BS, mask_BS)
        gated.detach()
        attached = GatedModel(model, family, HEADS[kind](layer), "all", scope)
        assert torch.equal(came, attached(ids_BS, mask_BS))
    if kind == "swap" or (attached.trace.outputs[layer].rows(attached.trace.answer_T).experts_TK == 2).any():
        assert not torch.equal(came, untouched)
