"""A stack: parts of different stages commute, parts of one stage run in order, and what makes no sense is refused."""

import itertools

import pytest
import torch
from made_up import layer_table
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead, decide
from moe_tune.heads.loss_free_bias import LossFreeBiasHead
from moe_tune.heads.quantile_balance import QuantileBalanceHead
from moe_tune.heads.relu import ReluHead
from moe_tune.heads.renormalised import RenormalisedHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.sigmoid import SigmoidHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.heads.top_p import TopPHead
from moe_tune.routing import SoftmaxRule
from moe_tune.tuner.train_table import TrainTable, ids_hash

BASE_ED, HIDDEN_TD = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(5))
RULE = SoftmaxRule(4, 16, False)


class _OwnLogits(RouterHead):
    """A head that ignores the logits it is given."""

    @property
    def traits(self):
        return HeadTraits(replaces_logits=True)

    def score(self, hidden_TD, logits_TE):
        return -logits_TE


def decision_of(parts, order):
    """Return the decision of a stack with its parts in an order, every part moved away from its start."""
    stack = Stack({name: parts[name]() for name in order}).bound_to(BaseGate(BASE_ED, RULE, 0))
    for name, value in stack.state_dict().items():
        value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
    return decide(stack, RULE, HIDDEN_TD, functional.linear(HIDDEN_TD, BASE_ED))


@pytest.mark.parametrize("bias_mode", ["logit", "select", "weight"])
def test_the_order_of_parts_does_not_matter(bias_mode):
    """Retuning and a logit bias add up; a temperature that keeps the mass commutes even with a bias on the weights."""
    parts = {
        "retuned_": RetunedHead,
        "bias": lambda: AccuracyBiasHead(mode=bias_mode),
        "heat": lambda: TemperatureHead(mode="learned"),
    }
    decisions = [decision_of(parts, order) for order in itertools.permutations(parts)]
    for other in decisions[1:]:
        assert torch.equal(other.experts_TK, decisions[0].experts_TK)
        torch.testing.assert_close(other.weights_TK, decisions[0].weights_TK)
        torch.testing.assert_close(other.probs_TE, decisions[0].probs_TE)


@pytest.mark.reference("Stack")
def test_a_stack_of_one_is_that_one():
    gate = BaseGate(BASE_ED, RULE, 0)
    logits_TE = functional.linear(HIDDEN_TD, BASE_ED)
    alone = decide(TemperatureHead(tau=0.5).bound_to(gate), RULE, HIDDEN_TD, logits_TE)
    stacked = decide(Stack({"heat": TemperatureHead(tau=0.5)}).bound_to(gate), RULE, HIDDEN_TD, logits_TE)
    assert torch.equal(alone.weights_TK, stacked.weights_TK)


def test_calibration_and_progress_reach_the_parts():
    stack = Stack({"bias": AccuracyBiasHead(), "heat": TemperatureHead(mode="scheduled", tau_end=0.5)})
    assert stack.traits.needs_calibration
    assert not stack.traits.foldable
    bound = stack.bound_to(BaseGate(BASE_ED, RULE, 0))
    bound.calibrate(layer_table(16))
    bound.set_progress(1.0)
    assert bound.parts["bias"].bias_E.any()
    assert float(bound.parts["heat"].theta.exp()) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        (dict, "at least one"),
        (lambda: {"a.b": RetunedHead()}, "plain word"),
        (lambda: {"type": RetunedHead()}, "plain word"),
        (lambda: {"bias": AccuracyBiasHead(), "own": _OwnLogits()}, "first"),
        (lambda: {"bias": AccuracyBiasHead(), "inner": Stack({"own": _OwnLogits()})}, "first"),
        (lambda: {"one": TemperatureHead(tau=0.5), "two": TemperatureHead(mode="learned")}, "at most one"),
        (lambda: {"free": LossFreeBiasHead(), "bias": AccuracyBiasHead(mode="select")}, "no selection after"),
        (lambda: {"inner": Stack({"free": LossFreeBiasHead()}), "price": QuantileBalanceHead()}, "no selection after"),
        (lambda: {"mass": RenormalisedHead(), "own": SigmoidHead()}, "SigmoidHead before RenormalisedHead"),
        (lambda: {"bias": AccuracyBiasHead(mode="weight"), "own": ReluHead()}, "ReluHead before AccuracyBiasHead"),
    ],
)
def test_stacks_that_make_no_sense_are_refused(parts, word):
    with pytest.raises(ConfigError, match=word):
        Stack(parts())


def test_parts_that_undo_one_another_may_stand_the_other_way_round():
    Stack({"bias": AccuracyBiasHead(mode="select"), "free": LossFreeBiasHead()})
    Stack({"own": SigmoidHead(), "mass": RenormalisedHead()})


@pytest.mark.parametrize("parts", [("relu", "bias"), ("bias",)])
def test_tokens_without_an_expert_weigh_nothing(parts):
    made = {"relu": ReluHead(), "bias": AccuracyBiasHead(mode="weight" if "relu" in parts else "logit")}
    head = Stack({name: made[name] for name in parts}).bound_to(BaseGate(BASE_ED, RULE, 0))
    decision = decide(head, RULE, HIDDEN_TD, -functional.linear(HIDDEN_TD, BASE_ED).abs() - 1)
    assert decision.weights_TK.isfinite().all()
    assert decision.weights_TK.any() == ("relu" not in parts)


@pytest.mark.parametrize("head", [TopPHead(p=0.9, slots=1), ReluHead(slots=1)], ids=["top-p", "relu"])
@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_head_may_use_fewer_experts_than_the_pretrained_router(head, scope, family, tiny_model, batch):
    routers = GatedModel(tiny_model, family, head, "all", scope)
    with torch.no_grad():
        assert tiny_model(**batch).logits.isfinite().all()
    for output in routers.trace.at(scope):
        assert output.used_TK.sum(-1).max() <= 1


def test_a_head_with_its_own_logits_may_come_first():
    assert Stack({"own": _OwnLogits(), "bias": AccuracyBiasHead()}).traits.replaces_logits


@pytest.mark.parametrize("split", ["validation", "test", "dev"])
def test_only_training_questions_calibrate(split):
    with pytest.raises(ConfigError, match="train"):
        TrainTable(split, 1, "0" * 16, {})


def test_the_hash_of_ids_ignores_their_order():
    assert ids_hash(["b", "a"]) == ids_hash(["a", "b"]) != ids_hash(["a"])
