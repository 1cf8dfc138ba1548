"""Renormalised weights and the softmax after the choice against slow references, alone and after other heads."""

import pytest
import torch
from made_up import bound_to, layer_table
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
    bound = bound_to(rule, head)
    if calibrated_on is not None:
        bound.calibrate(calibrated_on)
    return decide(bound, rule, HIDDEN_TD, logits_TE)


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
