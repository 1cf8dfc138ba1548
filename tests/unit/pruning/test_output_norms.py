"""The norms that REAP reads, against each expert asked by hand."""

import pytest
import torch
from found_models import found_model

from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.pruning.output_norms import output_norms

IDS_BS = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(1))
MASK_BS = torch.ones_like(IDS_BS)
MASK_BS[1, 5:] = 0


@pytest.mark.parametrize("scope", ["all", "answer"])
@pytest.mark.parametrize("model_type", ["olmoe", "deepseek_v3", "gpt_oss"])
def test_sums_are_those_of_every_token_asked_by_hand(model_type, scope):
    model, family = found_model(model_type)
    gated = GatedModel(model, family, IdentityHead(), "all", "all")
    heard, hooks = {}, []
    for layer, block in family.moe_layers(model).items():
        experts = block.get_submodule(family.experts_path)
        hooks.append(experts.register_forward_pre_hook(lambda _, args, at=layer: heard.update({at: args[0]})))
    with torch.no_grad(), output_norms(gated, scope) as sums_LE:
        model(input_ids=IDS_BS, attention_mask=MASK_BS, use_cache=False)
    for hook in hooks:
        hook.remove()
    mask_T = gated.trace.mask(scope)
    assert int(mask_T.sum()) == (23 if scope == "all" else 3)
    wanted_LE = torch.zeros_like(sums_LE)
    for row, (layer, block) in enumerate(family.moe_layers(model).items()):
        experts, output = block.get_submodule(family.experts_path), gated.trace.outputs[layer]
        for token in mask_T.nonzero().flatten().tolist():
            for expert, weight in zip(output.experts_TK[token], output.weights_TK[token], strict=True):
                with torch.no_grad():
                    said = experts(heard[layer][token][None], expert.view(1, 1), torch.ones(1, 1))
                wanted_LE[row, expert] += float(weight * said.norm())
    torch.testing.assert_close(sums_LE, wanted_LE, rtol=1e-5, atol=1e-6)
    assert (sums_LE > 0).any()
