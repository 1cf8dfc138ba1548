"""The dense straight-through gradient against autograd over all experts in float64, and the memory it does not take."""

import pytest
import torch
from made_up import mixture
from torch import nn

from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.dense_mixer import DenseMixerHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.routing import Decision, RouterOutput, SoftmaxRule, stable_top_k

T, E, K, D = 6, 8, 3, 5


class _Experts(nn.Module):
    """Made-up experts, called as the stock ones are."""

    def __init__(self, experts=E, width=D, dtype=torch.float64):
        super().__init__()
        draw = torch.Generator().manual_seed(4)
        self.weight_EDD = nn.Parameter(torch.randn(experts, width, width, generator=draw, dtype=dtype))
        self.most = 0

    def one(self, expert, hidden_TD):
        return torch.tanh(hidden_TD @ self.weight_EDD[expert].T)

    def forward(self, hidden_TD, experts_TK, weights_TK):
        self.most = max(self.most, len(hidden_TD))
        mixed = torch.zeros_like(hidden_TD)
        for slot in range(experts_TK.shape[1]):
            for expert in experts_TK[:, slot].unique().tolist():
                rows = (experts_TK[:, slot] == expert).nonzero().squeeze(-1)
                mixed = mixed.index_add(0, rows, weights_TK[rows, slot, None] * self.one(expert, hidden_TD[rows]))
        return mixed


def made_up(renormalise, spare=False):
    """Return experts, hidden states, probabilities (a leaf) and the decision made with them, in float64."""
    draw = torch.Generator().manual_seed(8)
    hidden_TD = torch.randn(T, D, generator=draw, dtype=torch.float64).requires_grad_()
    probs_TE = torch.softmax(torch.randn(T, E, generator=draw, dtype=torch.float64), -1).requires_grad_()
    experts_TK, used_TK = stable_top_k(probs_TE.detach(), K), None
    if spare:
        used_TK = torch.arange(K) < torch.tensor([1, 2, 3, 1, 2, 3])[:, None]
        experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1])
    decided = Decision(SoftmaxRule(K, E, renormalise), probs_TE.log(), probs_TE, experts_TK, used_TK=used_TK)
    every_T = torch.ones(T, dtype=torch.bool)
    output = RouterOutput(probs_TE.log(), probs_TE, decided.weights_TK, experts_TK, every_T, 0, used_TK)
    return _Experts(), hidden_TD, probs_TE, output


@pytest.mark.reference("DenseMixerHead")
@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("renormalise", [False, True])
def test_every_probability_gets_the_gradient_of_the_formula(renormalise, chunk, spare):
    experts, hidden_TD, probs_TE, output = made_up(renormalise, spare)
    upstream_TD = torch.randn(T, D, dtype=torch.float64)
    (mixture(DenseMixerHead(chunk), hidden_TD, output, experts) * upstream_TD).sum().backward()
    wanted_TE = torch.zeros(T, E, dtype=torch.float64)
    with torch.no_grad():
        for t in range(T):
            g = [float(upstream_TD[t] @ experts.one(i, hidden_TD[t])) for i in range(E)]
            used = [True] * K if output.used_TK is None else output.used_TK[t].tolist()
            chosen = [int(i) for i, use in zip(output.experts_TK[t], used, strict=True) if use]
            z = float(sum(probs_TE[t, i] for i in chosen)) if renormalise else 1.0
            pull = sum(float(probs_TE[t, i]) / z * g[i] for i in chosen) if renormalise else 0.0
            for i in range(E):
                wanted_TE[t, i] = (g[i] - pull) / z if i in chosen else g[i] / z
    torch.testing.assert_close(probs_TE.grad, wanted_TE, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("renormalise", [False, True])
def test_experts_and_hidden_states_get_sparse_gradients_only(renormalise):
    results = []
    for head in (DenseMixerHead(), IdentityHead()):
        experts, hidden_TD, _, output = made_up(renormalise)
        mixed_TD = mixture(head, hidden_TD, output, experts)
        mixed_TD.square().sum().backward()
        results.append((mixed_TD.detach(), hidden_TD.grad, experts.weight_EDD.grad))
    for dense, sparse in zip(*results, strict=True):
        assert torch.equal(dense, sparse)


def test_an_empty_choice_gives_no_gradient_and_no_nan():
    experts, hidden_TD, probs_TE, output = made_up(False)
    output.weights_TK = 0.0 * output.weights_TK
    output.used_TK = torch.zeros(T, K, dtype=torch.bool)
    mixture(DenseMixerHead(), hidden_TD, output, experts).sum().backward()
    assert not probs_TE.grad.any()


@pytest.mark.parametrize("chunk", [1, 4])
def test_outputs_of_a_chunk_of_experts_are_held_at_once(chunk):
    experts, hidden_TD, _, output = made_up(False)
    mixture(DenseMixerHead(chunk), hidden_TD, output, experts).sum().backward()
    assert experts.most == chunk * T


def saved_bytes(num_experts, width=64, tokens=32):
    """Return the bytes autograd keeps for the backward pass of the mixture."""
    experts = _Experts(num_experts, width, torch.float32).requires_grad_(False)
    probs_TE = torch.softmax(torch.randn(tokens, num_experts), -1).requires_grad_()
    choice = torch.arange(K).expand(tokens, K)
    every_T = torch.ones(tokens, dtype=torch.bool)
    output = RouterOutput(probs_TE.log(), probs_TE, probs_TE.gather(-1, choice), choice, every_T, 0)
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hidden_TD = torch.randn(tokens, width)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixture(DenseMixerHead(), hidden_TD, output, experts)
    return sum(kept.values())


def test_what_autograd_keeps_does_not_grow_with_the_experts():
    """But for a few bytes per token and expert; their outputs would be four times the width."""
    few, many = saved_bytes(8), saved_bytes(64)
    assert many - few <= 56 * 32 * 4
    assert many - few < (56 * 32 * 64 * 4) / 16


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_a_model_gets_the_gradient_of_the_dense_mixture(family, build_model, batch, implementation):
    """Against autograd through all experts of the last layer, outputs detached where not chosen."""
    model = build_model(family, experts=implementation)
    routers = GatedModel(model, family, Stack({"retuned": RetunedHead(), "dense": DenseMixerHead(3)}), [2], "all")
    caught = {}
    stock = model.model.layers[2].get_submodule(family.experts_path).stock

    def catch(module, args, output):
        output.retain_grad()
        caught.update(hidden=args[0], output=output)

    hook = model.model.layers[2].mlp.register_forward_hook(catch)
    mask_BS = batch["attention_mask"].bool()
    model(**batch).logits[mask_BS].logsumexp(-1).sum().backward()
    hook.remove()
    (parameter,) = routers.trainable().values()
    rule = routers.gates[2].rule
    hidden_TD, upstream_TD = caught["hidden"][mask_BS].detach(), caught["output"].grad[mask_BS]
    with torch.no_grad():
        outputs_TED = torch.stack(
            [
                stock(hidden_TD, torch.full((len(hidden_TD), 1), i), torch.ones(len(hidden_TD), 1))
                for i in range(rule.num_experts)
            ],
            dim=1,
        )
    weight_ED = parameter.detach().double().requires_grad_()
    probs_TE = torch.softmax(hidden_TD.double() @ weight_ED.T, -1)
    chosen_TE = torch.zeros_like(probs_TE).scatter(-1, stable_top_k(probs_TE.detach(), rule.top_k), 1.0)
    mass_T1 = (probs_TE * chosen_TE).sum(-1, keepdim=True)
    dense_TE = probs_TE
    if rule.renormalise:
        dense_TE = torch.where(chosen_TE > 0, probs_TE / mass_T1, probs_TE / mass_T1.detach())
    (dense_TE * (outputs_TED.double() * upstream_TD.double()[:, None]).sum(-1)).sum().backward()
    torch.testing.assert_close(parameter.grad.double(), weight_ED.grad, atol=1e-5, rtol=1e-4)


def test_experts_are_computed_in_the_precision_of_the_forward_pass(family, build_model, batch):
    model = build_model(family)
    routers = GatedModel(model, family, Stack({"retuned": RetunedHead(), "dense": DenseMixerHead()}), [2], "all")
    seen = set()
    stock = model.model.layers[2].get_submodule(family.experts_path).stock
    stock.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).logits.float().logsumexp(-1).sum()
    loss.backward()
    assert seen == {True}
    assert all(parameter.grad.isfinite().all() for parameter in routers.trainable().values())
