"""Sigmoid gating: the weights of the formula, and a warm start no worse than a search over the whole plane."""

import math

import pytest
import torch
from made_up import bound_to, layer_table

from moe_tune.heads.base import decide
from moe_tune.heads.sigmoid import SigmoidHead, expert_scores, fitted_affine, pretrained_choice
from moe_tune.routing import SoftmaxRule

KINDS = ("sigmoid", "sqrt_softplus")
HIDDEN_TD = torch.zeros(30, 4)


def bound(rule, **options):
    return bound_to(rule, SigmoidHead(**options))


def slow_score(z, kind):
    if kind == "sigmoid":
        return 1 / (1 + math.exp(-z)) + 1e-7
    return math.sqrt(math.log1p(math.exp(z)) + 1e-14)


def misfit(logits_QK, weights_QK, rho, kind, log_a, c):
    total = 0.0
    for z, w in zip(logits_QK.tolist(), weights_QK.tolist(), strict=True):
        s = [slow_score(math.exp(log_a) * one + c, kind) for one in z]
        total += sum((rho * s_i / sum(s) - w_i) ** 2 for s_i, w_i in zip(s, w, strict=True))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_start_is_as_good_as_a_search_over_the_plane(kind):
    logits_QK, weights_QK = pretrained_choice(layer_table(questions=60).logits_QE, SoftmaxRule(3, 8, False))
    rho = float(weights_QK.sum(-1).mean())
    found = misfit(logits_QK, weights_QK, rho, kind, *fitted_affine(logits_QK, weights_QK, rho, kind))
    plane = [(a / 4, c / 2) for a in range(-8, 9) for c in range(-20, 21)]
    assert found <= min(misfit(logits_QK, weights_QK, rho, kind, *one) for one in plane) + 1e-9
    assert found < misfit(logits_QK, weights_QK, rho, kind, 0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_warm_start_finds_what_weights_were_made_with(kind):
    logits_QK = torch.randn(200, 4, dtype=torch.float64)
    scores_QK = expert_scores(1.5 * logits_QK + 0.5, kind)
    log_a, c = fitted_affine(logits_QK, 0.7 * scores_QK / scores_QK.sum(-1, keepdim=True), 0.7, kind)
    assert (math.exp(log_a), c) == pytest.approx((1.5, 0.5), abs=1e-4)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_calibration_comes_close_to_the_pretrained_weights(kind, renormalise):
    rule, table = SoftmaxRule(2, 8, renormalise), layer_table()
    head = bound(rule, score=kind)
    logits_QK, weights_QK = pretrained_choice(table.logits_QE, rule)
    hidden_QD = torch.zeros(len(logits_QK), 4)
    before = decide(head, rule, hidden_QD, table.logits_QE).weights_TK
    head.calibrate(table)
    state = {name: value.clone() for name, value in head.state_dict().items()}
    head.calibrate(table)
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())
    came = decide(head, rule, hidden_QD, table.logits_QE).weights_TK
    assert float(head.rho) == pytest.approx(1.0 if renormalise else float(weights_QK.sum(-1).mean()), abs=1e-6)
    assert (came - weights_QK).square().mean() < (before - weights_QK).square().mean()
    assert (came - weights_QK).abs().mean() < 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_stay_finite_far_out(kind):
    logits = torch.tensor([-1e4, -200.0, -30.0, 0.0, 30.0, 1e4], requires_grad=True)
    scores = expert_scores(logits, kind)
    assert (scores >= 0.99e-7).all()
    scores.sum().backward()
    assert logits.grad.isfinite().all()
    exact = torch.linspace(-5, 5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: expert_scores(x, kind), exact)
