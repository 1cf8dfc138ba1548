"""Temperature: the choice never moves, mass is kept where promised, and the gradient of tau is the true one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import rounding_of

from moe_tune.base.errors import ConfigError
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.routing import SoftmaxRule

HIDDEN_TD = torch.zeros(20, 4)


def rule_of(renormalise):
    return SoftmaxRule(8, 64, renormalise)


def bound(rule, **options):
    return TemperatureHead(**options).bound_to(BaseGate(torch.zeros(64, 4), rule, 0))


@given(
    tau=st.floats(0.02, 50),
    seed=st.integers(0, 99),
    renormalise=st.booleans(),
    mass=st.sampled_from(["raw", "preserved"]),
)
def test_the_choice_never_moves(tau, seed, renormalise, mass):
    logits_TE = 3 * torch.randn(20, 64, generator=torch.Generator().manual_seed(seed))
    rule = rule_of(renormalise)
    base = decide(IdentityHead(), rule, HIDDEN_TD, logits_TE)
    tuned = decide(bound(rule, tau=tau, mass=mass), rule, HIDDEN_TD, logits_TE)
    assert torch.equal(tuned.experts_TK, base.experts_TK)
    assert torch.equal(tuned.logits_TE, logits_TE)
    if mass == "preserved":
        torch.testing.assert_close(tuned.weights_TK.sum(-1), base.weights_TK.sum(-1))
    elif not renormalise:
        reference = torch.softmax(logits_TE.double() / tau, -1).gather(-1, base.experts_TK)
        torch.testing.assert_close(tuned.weights_TK.double(), reference, atol=1e-6, rtol=1e-4)


def test_a_low_temperature_sharpens_and_a_high_one_flattens():
    logits_TE = torch.randn(20, 64)
    rule = rule_of(False)
    top = [decide(bound(rule, tau=tau), rule, HIDDEN_TD, logits_TE).weights_TK[:, 0] for tau in (0.5, 1.0, 2.0)]
    assert (top[0] > top[1]).all()
    assert (top[1] > top[2]).all()


@pytest.mark.reference("TemperatureHead")
@pytest.mark.parametrize("mass", ["raw", "preserved"])
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("tau", [0.3, 1.0, 3.0])
def test_the_gradient_of_tau_equals_a_double_precision_reference(mass, renormalise, tau):
    logits_TE, pull_TK = torch.randn(20, 64), torch.randn(20, 8)
    rule = rule_of(renormalise)
    head = bound(rule, tau=tau, mode="learned", mass=mass)
    decision = decide(head, rule, HIDDEN_TD, logits_TE)
    (decision.weights_TK * pull_TK).sum().backward()

    theta = torch.tensor(math.log(tau), dtype=torch.float64, requires_grad=True)
    z = logits_TE.double()
    base = torch.softmax(z, -1).gather(-1, decision.experts_TK)
    weights = torch.softmax(z / theta.exp(), -1).gather(-1, decision.experts_TK)
    if renormalise:
        base, weights = base / base.sum(-1, keepdim=True), weights / weights.sum(-1, keepdim=True)
    if mass == "preserved":
        weights = weights * base.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    (weights * pull_TK.double()).sum().backward()
    torch.testing.assert_close(decision.weights_TK.detach().double(), weights.detach(), atol=1e-6, rtol=1e-5)
    terms = (weights.detach() * pull_TK * z.gather(-1, decision.experts_TK) / tau).abs().sum()
    torch.testing.assert_close(head.theta.grad.double(), theta.grad, atol=rounding_of(terms), rtol=1e-4)


@pytest.mark.reference("TemperatureHead")
@pytest.mark.parametrize("mass", ["raw", "preserved"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_a_temperature_per_expert_equals_a_double_precision_reference(mass, renormalise):
    logits_TE, pull_TK, theta_E = 2 * torch.randn(20, 64), torch.randn(20, 8), 0.5 * torch.randn(64)
    rule = rule_of(renormalise)
    head = bound(rule, mode="learned", mass=mass, per="expert")
    head.theta.data.copy_(theta_E)
    came = decide(head, rule, HIDDEN_TD, logits_TE)
    assert torch.equal(came.experts_TK, decide(IdentityHead(), rule, HIDDEN_TD, logits_TE).experts_TK)
    (came.weights_TK * pull_TK).sum().backward()

    theta = theta_E.double().requires_grad_()
    rows = []
    for token in range(20):
        z = logits_TE[token].double()
        chosen = sorted(range(64), key=lambda i: (-float(z[i]), i))[:8]
        powers = [(z[i] / theta[i].exp()).exp() for i in range(64)]
        w = torch.stack([powers[i] for i in chosen]) / sum(powers)
        base = z.exp()[chosen] / z.exp().sum()
        if renormalise:
            w, base = w / w.sum(), base / base.sum()
        rows.append(w * base.sum() / w.sum() if mass == "preserved" else w)
    weights = torch.stack(rows)
    (weights * pull_TK.double()).sum().backward()
    torch.testing.assert_close(came.weights_TK.detach().double(), weights.detach(), atol=1e-6, rtol=1e-5)
    terms = (weights.detach() * pull_TK * (logits_TE / theta_E.exp()).gather(-1, came.experts_TK)).abs().sum()
    torch.testing.assert_close(head.theta.grad.double(), theta.grad, atol=rounding_of(terms), rtol=1e-4)


@pytest.mark.parametrize("mode", ["fixed", "scheduled"])
def test_temperatures_per_expert_that_agree_are_one_temperature(mode):
    logits_TE, rule = torch.randn(20, 64), rule_of(False)
    weights = []
    for per in ("layer", "expert"):
        head = bound(rule, tau=2.0, tau_end=0.5, mode=mode, per=per)
        head.set_progress(0.3)
        weights.append(decide(head, rule, HIDDEN_TD, logits_TE).weights_TK)
    assert head.theta.shape == (64,)
    assert torch.equal(*weights)


def test_a_schedule_starts_at_tau_and_ends_at_tau_end():
    head = bound(rule_of(False), tau=2.0, tau_end=0.5, mode="scheduled")
    taus = []
    for progress in (0.0, 0.5, 1.0):
        head.set_progress(progress)
        taus.append(float(head.theta.exp()))
    assert taus == pytest.approx([2.0, 1.25, 0.5])
    fixed = bound(rule_of(False), tau=2.0)
    fixed.set_progress(1.0)
    assert float(fixed.theta.exp()) == pytest.approx(2.0)


def test_another_temperature_than_one_says_that_it_does_not_start_exactly():
    assert "0.5" in TemperatureHead(tau=0.5).traits.reason
    assert not TemperatureHead(tau=0.5).traits.exact_start


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("key", ["tau", "tau_end"])
def test_an_impossible_temperature_is_refused(key, value):
    with pytest.raises(ConfigError, match=rf"head\.{key}"):
        TemperatureHead(**{key: value})
