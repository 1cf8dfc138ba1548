"""ReLU, top-p and entropy-k: which slots are used, what they weigh, and what happens at the ends."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import layer_table

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import TunedRouters
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.entropy_k import EntropyKHead
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
    bound = head.bound_to(BaseGate(torch.zeros(16, 4), rule, 0))
    return decide(bound, rule, HIDDEN_TD[: len(logits_TE)], logits_TE)


def softmax(z):
    return [math.exp(one) / sum(map(math.exp, z)) for one in z]


def used_weights(came, token):
    """Return expert to weight over the used slots, once the spare ones were found to weigh nothing."""
    used = came.used_TK[token]
    assert not came.weights_TK[token][~used].any()
    assert (came.experts_TK[token][~used] == came.experts_TK[token, 0]).all()
    return dict(zip(came.experts_TK[token][used].tolist(), came.weights_TK[token][used].tolist(), strict=True))


@pytest.mark.reference("ReluHead")
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 16, 99])
def test_relu_equals_the_slow_reference(slots, renormalise):
    came = decision(ReluHead(slots), renormalise)
    assert came.experts_TK.shape[1] == max(min(slots, 16), 4), "never fewer slots than the pretrained router"
    for token, z in enumerate(LOGITS_TE.tolist()):
        wanted = dict(sorted(((i, one) for i, one in enumerate(z) if one > 0), key=lambda pair: -pair[1])[:slots])
        assert used_weights(came, token) == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(came.probs_TE.sum(-1), torch.ones(40))


def test_relu_gradient_is_one_where_used_and_zero_elsewhere():
    logits_TE = LOGITS_TE.clone().requires_grad_()
    wanted_TE = torch.randn(40, 16)
    came = decision(ReluHead(), logits_TE=logits_TE)
    (came.weights_TK * wanted_TE.gather(-1, came.experts_TK)).sum().backward()
    torch.testing.assert_close(logits_TE.grad, torch.where(LOGITS_TE > 0, wanted_TE, 0.0), atol=1e-4, rtol=1e-4)


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
    routers = TunedRouters(model, family, Stack({"retuned": RetunedHead(), "relu": ReluHead()}), "all", "all")
    added = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: added.append(output))
    model(**batch).logits[batch["attention_mask"].bool()].sum().backward()
    assert not added[0][batch["attention_mask"].bool()].any()
    assert all(not parameter.grad.any() for parameter in routers.trainable().values())


@pytest.mark.reference("TopPHead")
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(("p", "slots"), [(0.1, 16), (0.5, 16), (0.9, 16), (0.9, 3), (1.0, 16), (0.7, 1)])
def test_top_p_equals_the_slow_reference(p, slots, renormalise):
    came = decision(TopPHead(p, slots), renormalise)
    for token, z in enumerate(LOGITS_TE.double().tolist()):
        probs = softmax(z)
        order = sorted(range(16), key=lambda i: -probs[i])
        k = 1
        while k < min(slots, 16) and sum(probs[i] for i in order[:k]) < p - 1e-7:
            k += 1
        mass = sum(probs[i] for i in order[:k]) if renormalise else 1.0
        assert used_weights(came, token) == pytest.approx({i: probs[i] / mass for i in order[:k]}, abs=1e-6)


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


@pytest.mark.reference("EntropyKHead")
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("ks", [[1, 16], [2, 4, 9], [1, 2, 3, 99]])
def test_entropy_k_equals_the_slow_reference(ks, renormalise):
    rule, table = rule_of(renormalise), layer_table(16, top_k=4)
    head = EntropyKHead(ks).bound_to(BaseGate(torch.zeros(16, 4), rule, 0))
    head.calibrate(table)
    entropies = sorted(-sum(p * math.log(p) for p in softmax(z)) for z in table.logits_QE.double().tolist())
    for j, threshold in enumerate(head.thresholds_J.tolist()):
        place = (j + 1) / len(ks) * (len(entropies) - 1)
        low, high = entropies[math.floor(place)], entropies[math.ceil(place)]
        assert threshold == pytest.approx(low + (place - math.floor(place)) * (high - low), abs=1e-5)
    came = decide(head, rule, HIDDEN_TD, LOGITS_TE)
    for token, z in enumerate(LOGITS_TE.double().tolist()):
        probs = softmax(z)
        k = ks[sum(-sum(p * math.log(p) for p in probs) > one for one in head.thresholds_J.tolist())]
        order = sorted(range(16), key=lambda i: -probs[i])[:k]
        mass = sum(probs[i] for i in order) if renormalise else 1.0
        assert used_weights(came, token) == pytest.approx({i: probs[i] / mass for i in order}, abs=1e-6)


def test_training_questions_fill_the_levels_of_entropy_k_alike():
    table, head = layer_table(16, questions=300), EntropyKHead([2, 4, 6])
    bound = head.bound_to(BaseGate(torch.zeros(16, 4), rule_of(), 0))
    assert decide(bound, rule_of(), HIDDEN_TD, LOGITS_TE).used_TK is None
    bound.calibrate(table)
    used_TK = decide(bound, rule_of(), torch.zeros(300, 4), table.logits_QE).used_TK
    assert used_TK.sum(-1).bincount()[[2, 4, 6]].tolist() == [100, 100, 100]


def test_levels_that_are_all_the_family_k_are_the_pretrained_router():
    """The smallest possible case: of a layer of two experts every level from two on is both of them."""
    rule = SoftmaxRule(2, 2, False)
    head = EntropyKHead([2, 3]).bound_to(BaseGate(torch.zeros(2, 4), rule, 0))
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


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: ReluHead(0), "slots"),
        (lambda: TopPHead(slots=0), "slots"),
        (lambda: TopPHead(0.0), "p"),
        (lambda: TopPHead(1.1), "p"),
        (lambda: TopPHead(math.nan), "p"),
        (lambda: EntropyKHead([8]), "ks"),
        (lambda: EntropyKHead([0, 8]), "ks"),
        (lambda: EntropyKHead([8, 8]), "ks"),
        (lambda: EntropyKHead([8, 4]), "ks"),
    ],
)
def test_impossible_settings_are_refused(build, key):
    with pytest.raises(ConfigError, match=rf"head\.{key}\)"):
        build()
