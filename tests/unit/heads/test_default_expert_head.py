"""Default experts: the output is the stock one, the gradient the formula's, and the running mean a slow reference's."""

import pytest
import torch
from made_up import mixture

from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads import default_expert
from moe_tune.heads.base import BaseGate
from moe_tune.heads.default_expert import DefaultExpertHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.routing import Decision, RouterOutput, SoftmaxRule, stable_top_k

T, E, K, D = 30, 8, 3, 5


def experts(hidden_TD, experts_TK, weights_TK):
    """Mix made-up experts: expert i multiplies by i + 1 and adds i."""
    factor_TK = (experts_TK + 1).to(hidden_TD.dtype)
    outputs_TKD = factor_TK[..., None] * hidden_TD[:, None] + experts_TK[..., None]
    return (weights_TK[..., None] * outputs_TKD).sum(1)


def made_up(renormalise=False, spare=False, seed=0):
    """Return a bound head in training, hidden states, probabilities (a leaf) and the decision made with them."""
    draw = torch.Generator().manual_seed(seed)
    rule = SoftmaxRule(K, E, renormalise)
    head = DefaultExpertHead(0.75).bound_to(BaseGate(torch.zeros(E, D), rule, 0))
    hidden_TD = torch.randn(T, D, generator=draw)
    probs_TE = torch.softmax(torch.randn(T, E, generator=draw) + torch.arange(E) / 3, -1).requires_grad_()
    experts_TK, used_TK = stable_top_k(probs_TE.detach(), K), None
    if spare:
        used_TK = torch.arange(K) < torch.arange(1, T + 1)[:, None] % K + 1
        experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1])
    decided = Decision(rule, probs_TE.log(), probs_TE, experts_TK, used_TK=used_TK)
    every_T = torch.ones(T, dtype=torch.bool)
    return (
        head,
        hidden_TD,
        probs_TE,
        RouterOutput(probs_TE.log(), probs_TE, decided.weights_TK, experts_TK, every_T, 0, used_TK),
    )


@pytest.mark.reference("DefaultExpertHead")
@pytest.mark.parametrize("renormalise", [False, True])
def test_the_gradient_is_the_formula_and_the_output_is_not_touched(renormalise):
    head, hidden_TD, probs_TE, output = made_up(renormalise)
    head.default_ED.normal_()
    upstream_TD = torch.randn(T, D)
    mixed_TD = mixture(head, hidden_TD, output, experts)
    stock_TD = experts(hidden_TD, output.experts_TK, output.weights_TK)
    assert torch.equal(mixed_TD, stock_TD)
    (gradient_TE,) = torch.autograd.grad(mixed_TD, probs_TE, upstream_TD, retain_graph=True)
    (sparse_TE,) = torch.autograd.grad(stock_TD, probs_TE, upstream_TD)
    for t in range(T):
        chosen = output.experts_TK[t].tolist()
        mass = float(probs_TE[t, chosen].detach().sum()) if renormalise else 1.0
        for i in range(E):
            wanted = float(sparse_TE[t, i]) if i in chosen else float(upstream_TD[t] @ head.default_ED[i]) / mass
            assert float(gradient_TE[t, i]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("spare", [False, True])
def test_the_running_mean_equals_the_slow_reference(spare, monkeypatch):
    """Over two micro-batches and two ranks that saw the same; then a step that saw nothing."""
    monkeypatch.setattr(default_expert, "summed_over_ranks", lambda value: 2 * value)
    head, sums, counts = None, torch.zeros(E, D, dtype=torch.float64), [0] * E
    for seed in (1, 2):
        fresh, hidden_TD, _, output = made_up(spare=spare, seed=seed)
        head = head or fresh
        head.observe(output)
        for _ in range(2):  # the second is what checkpointing computes again
            mixture(head, hidden_TD, output, experts)
        for t in range(T):
            for slot in range(K):
                if output.used_TK is None or output.used_TK[t, slot]:
                    i = int(output.experts_TK[t, slot])
                    sums[i] += (i + 1) * hidden_TD[t].double() + i
                    counts[i] += 1
    assert head.counts_E.tolist() == counts
    start_ED = head.default_ED.normal_().clone()
    counts[0] = head.counts_E[0] = 0  # an expert that nobody chose
    head.after_step()
    for i in range(E):
        mean = sums[i] / counts[i] if counts[i] else start_ED[i].double()
        wanted = (0.75 * start_ED[i].double() + 0.25 * mean).float()
        torch.testing.assert_close(head.default_ED[i], wanted, atol=1e-5, rtol=1e-4)
    after_ED = head.default_ED.clone()
    head.after_step()
    assert torch.equal(head.default_ED, after_ED)


def test_nothing_is_collected_in_evaluation():
    head, hidden_TD, _, output = made_up()
    head.eval()
    mixture(head, hidden_TD, output, experts)
    assert not head.counts_E.any()


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_training_with_and_without_checkpointing_agrees(scope, family, build_model, batch):
    results = []
    for checkpointing in (False, True):
        model = build_model(family).train()
        head = Stack({"retuned": RetunedHead(), "default": DefaultExpertHead()})
        routers = GatedModel(model, family, head, "all", scope)
        if checkpointing:
            model.base_model.gradient_checkpointing_enable({"use_reentrant": False})
        for _ in range(2):
            model(**batch).logits[batch["attention_mask"].bool()].logsumexp(-1).sum().backward()
            for bound in routers.heads.values():
                assert bound.parts["default"].counts_E.sum() == 2 * routers.trace.mask(scope).sum()
                bound.after_step()
        results.append([*(one.grad for one in routers.trainable().values()), *routers.state().values()])
        assert all(bound.parts["default"].default_ED.any() for bound in routers.heads.values())
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))
