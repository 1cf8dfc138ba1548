"""ReLU, top-p, entropy-k and fixed k: where their bounds come from, and what happens at the ends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import bound_to, layer_table

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.entropy_k import EntropyKHead
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.relu import ReluHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.top_p import TopPHead, covering_prefix
from moe_tune.routing import SoftmaxRule

HIDDEN_TD = torch.zeros(40, 4)
LOGITS_TE = 2 * torch.randn(40, 16, generator=torch.Generator().manual_seed(9))


def rule_of(renormalise=False):
    return SoftmaxRule(4, 16, renormalise)


def decision(head, renormalise=False, logits_TE=LOGITS_TE):
    rule = rule_of(renormalise)
    bound = bound_to(rule, head)
    return decide(bound, rule, HIDDEN_TD[: len(logits_TE)], logits_TE)


def softmax(z):
    return [math.exp(one) / sum(map(math.exp, z)) for one in z]


def test_there_are_never_fewer_slots_than_the_pretrained_router_has():
    for slots in (1, 3, 16, 99):
        assert decision(ReluHead(slots)).experts_TK.shape[1] == max(min(slots, 16), 4)


def test_relu_without_a_positive_logit_adds_nothing(family, build_model, batch):
    logits_TE = torch.full((2, 16), -1.0, requires_grad=True)
    came = decision(ReluHead(), logits_TE=logits_TE)
    assert not came.used_TK.any()
    assert not came.weights_TK.any()
    came.weights_TK.sum().backward()
    assert not logits_TE.grad.any()
    model = build_model(family)
    for block in family.moe_layers(model).values():
        block.get_submodule(family.gate_path).weight.data.zero_()
    routers = GatedModel(model, family, Stack({"retuned": RetunedHead(), "relu": ReluHead()}), "all", "all")
    added = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: added.append(output))
    model(**batch).logits[batch["attention_mask"].bool()].sum().backward()
    assert not added[0][batch["attention_mask"].bool()].any()
    assert all(not parameter.grad.any() for parameter in routers.trainable().values())


@given(seed=st.integers(0, 999), share=st.floats(0.01, 0.999), sharp=st.floats(0.0, 20.0))
def test_the_prefix_is_the_shortest_that_covers_the_share(seed, share, sharp):
    draw = torch.Generator().manual_seed(seed)
    probs_TK = torch.softmax(sharp * torch.randn(5, 12, generator=draw, dtype=torch.float64), -1)
    probs_TK = probs_TK.sort(-1, descending=True).values
    used_TK = covering_prefix(probs_TK, share)
    for probs, used in zip(probs_TK.tolist(), used_TK.tolist(), strict=True):
        k = sum(used)
        assert used == [True] * k + [False] * (12 - k)
        assert k >= 1
        assert sum(probs[:k]) >= share - 1e-9
        assert k == 1 or sum(probs[: k - 1]) < share + 1e-9


@pytest.mark.parametrize("ks", [[1, 16], [2, 4, 9], [1, 2, 3, 99]])
def test_thresholds_of_entropy_k_are_quantiles_of_the_training_questions(ks):
    table, head = layer_table(16, top_k=4), bound_to(rule_of(), EntropyKHead(ks))
    head.calibrate(table)
    entropies = sorted(-sum(p * math.log(p) for p in softmax(z)) for z in table.logits_QE.double().tolist())
    for j, threshold in enumerate(head.thresholds_J.tolist()):
        place = (j + 1) / len(ks) * (len(entropies) - 1)
        low, high = entropies[math.floor(place)], entropies[math.ceil(place)]
        assert threshold == pytest.approx(low + (place - math.floor(place)) * (high - low), abs=1e-5)


def test_levels_that_are_all_the_family_k_are_the_pretrained_router():
    """The smallest possible case: of a layer of two experts every level from two on is both of them."""
    rule = SoftmaxRule(2, 2, False)
    head = bound_to(rule, EntropyKHead([2, 3]))
    head.calibrate(layer_table(2))
    came, base = (decide(one, rule, HIDDEN_TD, LOGITS_TE[:, :2]) for one in (head, IdentityHead()))
    assert torch.equal(came.experts_TK, base.experts_TK)
    assert torch.equal(came.weights_TK, base.weights_TK)


def test_in_a_stack_each_keeps_its_own_bound():
    """The slots are as many as the widest part needs; every other part still uses no more than its own."""
    stack = Stack({"narrow": TopPHead(1.0, 3), "wide": ReluHead(10)})
    came = decision(stack)
    assert came.experts_TK.shape[1] == 10
    assert came.used_TK.sum(-1).max() == 3


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("head", [FixedKHead(4), FixedKHead(4, True), FixedKHead({7: 2}, True)])
def test_as_many_experts_as_the_checkpoint_was_made_for_are_the_pretrained_router(head, renormalise):
    came, base = decision(head, renormalise), decision(IdentityHead(), renormalise)
    assert came.used_TK is None
    assert torch.equal(came.experts_TK, base.experts_TK)
    assert torch.equal(came.weights_TK, base.weights_TK)


@given(k=st.integers(1, 16), seed=st.integers(0, 99), sharp=st.floats(0.0, 30.0), renormalise=st.booleans())
def test_the_k_best_are_chosen_and_the_mass_of_the_pretrained_k_is_kept(k, seed, sharp, renormalise):
    logits_TE = sharp * torch.randn(6, 16, generator=torch.Generator().manual_seed(seed))
    plain, kept = (decision(FixedKHead(k, mass), renormalise, logits_TE) for mass in (False, True))
    base = decision(IdentityHead(), renormalise, logits_TE)
    every = torch.sort(logits_TE, dim=-1, descending=True, stable=True).indices
    for came in (plain, kept):
        assert torch.equal(came.experts_TK[:, :k], every[:, :k])
        assert not came.weights_TK[:, k:].any()
    torch.testing.assert_close(kept.weights_TK.sum(-1), base.weights_TK.sum(-1), atol=1e-6, rtol=1e-5)


def test_each_layer_has_a_number_of_its_own():
    head, rule = FixedKHead({0: 1, 2: 9}), rule_of()
    counts = []
    for layer in range(3):
        bound = head.bound_to(BaseGate(torch.zeros(16, 4), rule, layer))
        came = decide(bound, rule, HIDDEN_TD, LOGITS_TE)
        counts.append(int((came.weights_TK > 0).sum(-1).unique()))
    assert counts == [1, 4, 9]


def test_more_experts_than_a_layer_has_are_refused():
    with pytest.raises(ConfigError, match=r"expected 1 to 16 experts .* got 17 \(head\.k\)"):
        bound_to(rule_of(), FixedKHead(17))


def test_a_k_for_a_layer_that_is_not_there_is_refused():
    FixedKHead({0: 2, 3: 2}).refuse_layers([0, 1, 3])
    with pytest.raises(ConfigError, match=r"layers of \[0, 1\] but got \[0, 3\] \(head\.k\)"):
        FixedKHead({0: 2, 3: 2}).refuse_layers([0, 1])
