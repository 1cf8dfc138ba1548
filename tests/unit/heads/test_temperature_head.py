"""Temperature: the choice never moves, mass is kept where promised, and the gradient of tau is the true one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import bound_to

from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.routing import SoftmaxRule

HIDDEN_TD = torch.zeros(20, 4)


def rule_of(renormalise):
    return SoftmaxRule(8, 64, renormalise)


def bound(rule, **options):
    return bound_to(rule, TemperatureHead(**options))


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
