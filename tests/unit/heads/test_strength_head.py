"""Strength: both ends of the way are exact, what lies between is the mean, and what is no way of logits is refused."""

import math

import pytest
import torch
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.dense_mixer import DenseMixerHead
from moe_tune.heads.mlp import MlpHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.steer import SteerHead
from moe_tune.heads.strength import Strength
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.heads.top_p import TopPHead
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
BASE_ED, HIDDEN_TD = torch.randn(8, 16), torch.randn(50, 16)
LOGITS_TE = functional.linear(HIDDEN_TD, BASE_ED)
INNER = [RetunedHead, MlpHead, SteerHead, AccuracyBiasHead, lambda: Stack({"a": RetunedHead(), "b": DenseMixerHead()})]


def moved(head):
    """Return a bound head away from its start."""
    torch.manual_seed(1)  # some draw their start
    bound = head.bound_to(BaseGate(BASE_ED, RULE, 0))
    for value in bound.state_dict().values():
        if value.is_floating_point():
            value.add_(0.3 * torch.randn(value.shape))
        else:
            value.copy_(torch.arange(len(value)) == value.dim())
    return bound


@pytest.mark.reference("Strength")
@pytest.mark.parametrize("inner", INNER)
def test_both_ends_are_exact(inner):
    with torch.no_grad():
        own_TE = moved(inner()).score(HIDDEN_TD, LOGITS_TE)
        assert not torch.equal(own_TE, LOGITS_TE)
        assert torch.equal(moved(Strength(inner(), 0.0)).score(HIDDEN_TD, LOGITS_TE), LOGITS_TE)
        assert torch.equal(moved(Strength(inner(), 1.0)).score(HIDDEN_TD, LOGITS_TE), own_TE)
        for strength in (0.3, 0.7, 1.5):
            wanted_TE = (1 - strength) * LOGITS_TE + strength * own_TE
            came_TE = moved(Strength(inner(), strength)).score(HIDDEN_TD, LOGITS_TE)
            torch.testing.assert_close(came_TE, wanted_TE, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_of_a_linear_head_it_is_the_weight_between(strength):
    bound = moved(Strength(RetunedHead(), strength))
    with torch.no_grad():
        weight_ED = (1 - strength) * BASE_ED + strength * bound.head.weight
        torch.testing.assert_close(bound.router_weight(BASE_ED), weight_ED, atol=1e-5, rtol=1e-5)
        wanted = decide(None, RULE, HIDDEN_TD, functional.linear(HIDDEN_TD, weight_ED))
        came = decide(bound, RULE, HIDDEN_TD, LOGITS_TE)
    assert torch.equal(came.experts_TK, wanted.experts_TK)


def test_a_checkpoint_of_the_inner_head_is_one_of_it(family, build_model, batch):
    """Also within a stack; and at strength 1 the answers are those of the inner head."""
    answers = []
    for head, around in (
        (RetunedHead(), Strength(RetunedHead())),
        (Stack({"own": RetunedHead()}), Stack({"own": Strength(RetunedHead())})),
    ):
        inner, outer = (GatedModel(build_model(family), family, one, "all", "all") for one in (head, around))
        state = {name: value + 0.3 * torch.randn(value.shape) for name, value in inner.state().items()}
        assert list(outer.trainable()) == list(inner.trainable()) == list(state)
        for gated in (inner, outer):
            gated.load_state(state, "test")
            with torch.no_grad():
                answers.append(gated.model(**batch).logits)
        assert torch.equal(answers[-1], answers[-2])


def test_what_it_is_made_of_may_be_trained_through_it():
    bound = moved(Strength(RetunedHead(), 0.5))
    bound.score(HIDDEN_TD, LOGITS_TE).square().sum().backward()
    assert bound.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "head",
    [TemperatureHead(), AccuracyBiasHead(mode="select"), TopPHead(), Stack({"a": TemperatureHead()})],
)
def test_a_head_that_changes_more_than_logits_is_refused(head):
    with pytest.raises(ConfigError, match=r"head\.head.*Stack"):
        Strength(head)


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_impossible_strengths_are_refused(strength):
    with pytest.raises(ConfigError, match=r"head\.strength"):
        Strength(RetunedHead(), strength)
