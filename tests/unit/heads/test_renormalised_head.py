"""Renormalised weights and the softmax after the choice against slow references, alone and after other heads."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import layer_table
from tolerances import rounding_of

from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.post_softmax import PostSoftmaxHead
from moe_tune.heads.renormalised import RenormalisedHead, mean_mass, renormalised
from moe_tune.heads.stack import Stack
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.routing import Decision, SoftmaxRule, stable_top_k

HIDDEN_TD = torch.zeros(20, 4)
both_rules = pytest.mark.parametrize("renormalise", [False, True])


def decision(head, logits_TE, renormalise=False, calibrated_on=None):
    rule = SoftmaxRule(4, 16, renormalise)
    bound = head.bound_to(BaseGate(torch.zeros(16, 4), rule, 0))
    if calibrated_on is not None:
        bound.calibrate(calibrated_on)
    return decide(bound, rule, HIDDEN_TD, logits_TE)


def slow_probabilities(z):
    powers = [math.exp(value - max(z)) for value in z]
    return [power / sum(powers) for power in powers]


def slow_top(z, count):
    return sorted(range(len(z)), key=lambda i: (-z[i], i))[:count]


@pytest.mark.reference("PostSoftmaxHead")
@given(seed=st.integers(0, 99), spread=st.floats(0.1, 20), renormalise=st.booleans())
def test_post_softmax_is_the_softmax_of_the_chosen_logits(seed, spread, renormalise):
    logits_TE = spread * torch.randn(20, 16, generator=torch.Generator().manual_seed(seed))
    came = decision(PostSoftmaxHead(), logits_TE, renormalise)
    assert torch.equal(came.experts_TK, stable_top_k(logits_TE, 4))
    for token, z in enumerate(logits_TE.double().tolist()):
        wanted = slow_probabilities([z[i] for i in slow_top(z, 4)])
        assert came.weights_TK[token].tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.reference("RenormalisedHead")
@both_rules
def test_calibrated_weights_equal_the_slow_reference(renormalise):
    table, logits_TE = layer_table(16, top_k=4), 2 * torch.randn(20, 16)
    came = decision(RenormalisedHead(), logits_TE, renormalise, table)
    totals = []
    for z in table.logits_QE.double().tolist():
        p = slow_probabilities(z)
        totals.append(sum(p[i] for i in slow_top(z, 4)))
    c = 1.0 if renormalise else sum(totals) / len(totals)
    for token, z in enumerate(logits_TE.double().tolist()):
        p, chosen = slow_probabilities(z), slow_top(z, 4)
        assert came.experts_TK[token].tolist() == chosen
        wanted = [c * p[i] / sum(p[j] for j in chosen) for i in chosen]
        assert came.weights_TK[token].tolist() == pytest.approx(wanted, abs=1e-6)


def test_calibration_keeps_the_mean_total_weight():
    table = layer_table(16, top_k=4)
    own, came = (
        decide(head, SoftmaxRule(4, 16, False), table.hidden_QD, table.logits_QE).weights_TK.sum(-1)
        for head in (IdentityHead(), calibrated(table))
    )
    assert float(came.mean()) == pytest.approx(float(own.mean()), rel=1e-5)
    assert float(came.std()) < rounding_of(came) < float(own.std())


def calibrated(table):
    head = RenormalisedHead().bound_to(BaseGate(torch.zeros(16, 16), SoftmaxRule(4, 16, False), 0))
    head.calibrate(table)
    return head


def test_in_a_family_that_renormalises_both_are_the_identity():
    logits_TE = torch.randn(20, 16)
    base = decision(IdentityHead(), logits_TE, True).weights_TK
    for head in (PostSoftmaxHead(), RenormalisedHead(), RenormalisedHead(scale="learned")):
        torch.testing.assert_close(decision(head, logits_TE, True, layer_table(16, top_k=4)).weights_TK, base)


def test_the_mean_mass_of_known_routers():
    assert float(mean_mass(torch.zeros(5, 64), SoftmaxRule(8, 64, False))) == pytest.approx(8 / 64)
    assert float(mean_mass(torch.zeros(5, 64), SoftmaxRule(8, 64, True))) == pytest.approx(1.0)
    one_hot_QE = torch.zeros(5, 64).index_fill(1, torch.tensor([3]), 100.0)
    assert float(mean_mass(one_hot_QE, SoftmaxRule(8, 64, False))) == pytest.approx(1.0)


@pytest.mark.parametrize("head", [PostSoftmaxHead, RenormalisedHead])
def test_the_gradient_is_that_of_the_chosen_logits_alone(head):
    """Where the base router's unchosen logits get a gradient, ``-p_j sum_S p_i G_i``, these get none."""
    pull_TK = torch.randn(20, 4)
    gradients = []
    for one in (head(), IdentityHead()):
        logits_TE = torch.randn(20, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        came = decision(one, logits_TE)
        (came.weights_TK * pull_TK).sum().backward()
        gradients.append(logits_TE.grad)
    z = logits_TE.detach().double().requires_grad_()
    (torch.softmax(z.gather(-1, came.experts_TK), -1) * pull_TK.double()).sum().backward()
    torch.testing.assert_close(gradients[0].double(), z.grad, atol=1e-6, rtol=1e-4)
    outside_TE = torch.ones(20, 16).scatter(1, came.experts_TK, 0.0).bool()
    assert gradients[0][outside_TE].abs().max() < rounding_of(gradients[0])
    assert gradients[1][outside_TE].abs().max() > 1e-4


def test_a_learned_scale_has_the_gradient_of_the_shares():
    rule, logits_TE, pull_TK = SoftmaxRule(4, 16, False), torch.randn(20, 16), torch.randn(20, 4)
    head = RenormalisedHead(scale="learned").bound_to(BaseGate(torch.zeros(16, 4), rule, 0))
    head.calibrate(layer_table(16, top_k=4))
    assert head.scale.requires_grad
    assert 0 < head.scale.item() < 1
    weights_TK = decide(head, rule, HIDDEN_TD, logits_TE).weights_TK
    (weights_TK * pull_TK).sum().backward()
    wanted = (torch.softmax(logits_TE.gather(-1, stable_top_k(logits_TE, 4)), -1) * pull_TK).sum()
    assert float(head.scale.grad) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("mass", ["raw", "preserved"])
@both_rules
def test_a_temperature_commutes_with_it(mass, renormalise):
    """Both ways it is ``softmax(z_S / tau)``."""
    logits_TE = torch.randn(20, 16)
    wanted = torch.softmax(logits_TE.gather(-1, stable_top_k(logits_TE, 4)) / 0.5, -1)
    for order in (("heat", "post"), ("post", "heat")):
        heads = {"heat": TemperatureHead(tau=0.5, mass=mass), "post": PostSoftmaxHead()}
        came = decision(Stack({name: heads[name] for name in order}), logits_TE, renormalise)
        torch.testing.assert_close(came.weights_TK, wanted)


def test_a_bias_on_the_weights_before_it_keeps_its_shares():
    table, logits_TE = layer_table(16, top_k=4), torch.randn(20, 16)
    bias = AccuracyBiasHead(mode="weight", n_min=1, shrinkage=5.0)
    biased = decision(bias, logits_TE, calibrated_on=table).weights_TK
    came = decision(Stack({"bias": bias, "post": PostSoftmaxHead()}), logits_TE, calibrated_on=table).weights_TK
    torch.testing.assert_close(came, biased / biased.sum(-1, keepdim=True))


def test_tokens_without_any_weight_stay_so_with_a_finite_gradient():
    rule = SoftmaxRule(2, 4, False)
    scores_TE = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 3.0, 0.0]]).requires_grad_()
    made = Decision(rule, scores_TE, rule.probabilities(scores_TE), stable_top_k(scores_TE, 2))
    weights_TK = renormalised(made.with_scores(scores_TE)).weights_TK
    torch.testing.assert_close(weights_TK, torch.tensor([[0.0, 0.0], [0.75, 0.25]]))
    weights_TK[:, 0].sum().backward()
    assert scores_TE.grad.isfinite().all()
