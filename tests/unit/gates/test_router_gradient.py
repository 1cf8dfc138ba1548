"""What the gradient of a router's logits is: the formulas that the heads are designed around, against autograd."""

import pytest
import torch
from tolerances import rounding_of

from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_experts import expert_outputs
from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.routing import SoftmaxRule

T, E, K, D = 20, 9, 3, 5


def derived(probs_TE, experts_TK, gain_TE, renormalise):
    """Return dL/dz by the formula, ``gain`` being <dL/dy, f_i>, expert by expert."""
    result_TE = torch.zeros_like(probs_TE)
    for t in range(len(probs_TE)):
        chosen = set(experts_TK[t].tolist())
        mass = sum(probs_TE[t, i] for i in chosen)
        for j in range(probs_TE.shape[1]):
            if renormalise:
                mean = sum(probs_TE[t, i] / mass * gain_TE[t, i] for i in chosen)
                result_TE[t, j] = probs_TE[t, j] / mass * (gain_TE[t, j] - mean) if j in chosen else 0.0
            else:
                mean = sum(probs_TE[t, i] * gain_TE[t, i] for i in chosen)
                result_TE[t, j] = probs_TE[t, j] * ((gain_TE[t, j] if j in chosen else 0.0) - mean)
    return result_TE


@pytest.mark.reference("IdentityHead")
@pytest.mark.parametrize("renormalise", [False, True])
def test_the_gradient_of_the_logits(renormalise):
    rule = SoftmaxRule(K, E, renormalise)
    logits_TE = torch.randn(T, E, requires_grad=True)
    outputs_TED, upstream_TD = torch.randn(T, E, D), torch.randn(T, D)
    decision = decide(IdentityHead(), rule, torch.randn(T, D), logits_TE)
    chosen_TKD = outputs_TED.gather(1, decision.experts_TK[..., None].expand(-1, -1, D))
    mixed_TD = (decision.weights_TK[..., None] * chosen_TKD).sum(1)
    mixed_TD.backward(upstream_TD)
    gain_TE = torch.einsum("td,ted->te", upstream_TD, outputs_TED)
    wanted_TE = derived(decision.probs_TE.detach(), decision.experts_TK, gain_TE, renormalise)
    torch.testing.assert_close(logits_TE.grad, wanted_TE, atol=rounding_of(gain_TE), rtol=1e-4)
    unchosen_TE = torch.ones(T, E, dtype=torch.bool).scatter(1, decision.experts_TK, False)
    carried = logits_TE.grad[unchosen_TE].abs().max() > rounding_of(gain_TE)
    assert bool(carried) == (not renormalise), "zero for the unchosen only if renormalised"


@pytest.mark.reference("RetunedHead")
def test_the_gradient_of_a_router_in_its_model(family, build_model, batch):
    """In the last layer, where nothing else lies between: dL/dW = sum_t (dL/dz_t) h_t."""
    model = build_model(family).double()
    last = model.config.num_hidden_layers - 1
    routers = GatedModel(model, family, RetunedHead(), [last], "answer", "native", ["hidden"])
    block = family.moe_layers(model)[last]
    kept = {}
    block.get_submodule("mlp").register_forward_hook(
        lambda module, given, mixed: mixed.register_hook(lambda gradient: kept.update(upstream=gradient)) and None
    )
    logits_BSV = model(**batch).logits
    rows = torch.arange(5), batch["attention_mask"].sum(1) - 1
    logits_BSV[rows].logsumexp(-1).sum().backward()
    (output,) = [one for one in routers.trace.at("answer") if one.layer == last]
    upstream_TD = kept["upstream"].reshape(-1, kept["upstream"].shape[-1])[routers.trace.answer_T]
    every_TK = torch.arange(routers.rule.num_experts).expand(len(upstream_TD), -1)
    outputs_TED = expert_outputs(block.get_submodule(family.experts_path), output.hidden_TD, every_TK)
    gain_TE = torch.einsum("td,ted->te", upstream_TD, outputs_TED).detach()
    gradient_TE = derived(output.probs_TE.detach().double(), output.experts_TK, gain_TE, routers.rule.renormalise)
    wanted_ED = gradient_TE.T @ output.hidden_TD.detach()
    rounding = rounding_of(output.probs_TE * gain_TE) * float(output.hidden_TD.abs().max())
    torch.testing.assert_close(routers.heads[last].weight.grad.double(), wanted_ED, atol=rounding, rtol=1e-3)
