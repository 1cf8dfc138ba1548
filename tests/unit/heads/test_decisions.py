"""Heads that decide otherwise than the router agree, in value and gradient, with slow float64 references."""

import pytest
import torch
from made_up import bound_to, layer_table
from tolerances import rounding_of

from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import decide
from moe_tune.heads.entropy_k import EntropyKHead
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.loss_free_bias import LossFreeBiasHead
from moe_tune.heads.post_softmax import PostSoftmaxHead
from moe_tune.heads.quantile_balance import QuantileBalanceHead
from moe_tune.heads.relu import ReluHead
from moe_tune.heads.renormalised import RenormalisedHead
from moe_tune.heads.sigmoid import SigmoidHead
from moe_tune.heads.steer import SteerHead
from moe_tune.heads.temperature import TemperatureHead
from moe_tune.heads.top_p import TopPHead
from moe_tune.routing import SoftmaxRule

E, K, T = 16, 4, 30


def softmax(z):
    powers = [(one - max(z)).exp() for one in z]
    return [one / sum(powers) for one in powers]


def first(values, count=K):
    """Return the indices of the largest values, ties by index."""
    return sorted(range(len(values)), key=lambda i: (-float(values[i].detach()), i))[:count]


def kept(p, chosen, renormalise):
    mass = sum(p[i] for i in chosen) if renormalise else 1.0
    return {i: p[i] / mass for i in chosen}


def with_sum(weights, total):
    return {i: one * total / sum(weights.values()) for i, one in weights.items()}


def accuracy_bias(z, state, head, renormalise):
    b = state["bias_E"]
    moved = [one + b[i] for i, one in enumerate(z)]
    if head.mode == "logit":
        return kept(softmax(moved), first(moved), renormalise)
    weights = kept(softmax(z), first(moved if head.mode == "select" else z), renormalise)
    if head.mode == "select":
        return weights
    return with_sum({i: one * b[i].exp() for i, one in weights.items()}, sum(weights.values()))


def loss_free_bias(z, state, head, renormalise):
    p = softmax(z)
    return kept(p, first([one + b for one, b in zip(p, state["bias_E"], strict=True)]), renormalise)


def quantile_balance(z, state, head, renormalise):
    p = softmax(z)
    return kept(p, first([one - b for one, b in zip(p, state["beta_E"], strict=True)]), renormalise)


def relu(z, state, head, renormalise):
    return {i: z[i] for i in first(z, head.most) if z[i] > 0}


def top_p(z, state, head, renormalise):
    p, k = softmax(z), 1
    while k < min(head.most, E) and sum(p[i] for i in first(p, k)) < head.p - 1e-7:
        k += 1
    return kept(p, first(p, k), renormalise)


def entropy_k(z, state, head, renormalise):
    p = softmax(z)
    entropy = -sum(one * one.log() for one in p)
    return kept(p, first(p, head.ks[sum(bool(entropy > one) for one in state["thresholds_J"])]), renormalise)


def fixed_k(z, state, head, renormalise):
    p = softmax(z)
    weights = kept(p, first(p, head.k), renormalise)
    return with_sum(weights, sum(kept(p, first(p), renormalise).values())) if head.renormalise else weights


def post_softmax(z, state, head, renormalise):
    return with_sum(kept(softmax(z), first(z), True), 1.0)


def renormalised(z, state, head, renormalise):
    return with_sum(kept(softmax(z), first(z), True), state["scale"])


def sigmoid(z, state, head, renormalise):
    x = [state["log_a"].exp() * z[i] + state["c"] for i in first(z)]
    if head.kind == "sigmoid":
        scores = [1 / (1 + (-one).exp()) + 1e-7 for one in x]
    else:
        scores = [((1 + one.exp()).log() + 1e-14).sqrt() for one in x]
    return with_sum(dict(zip(first(z), scores, strict=True)), state["rho"])


def steer(z, state, head, renormalise):
    """As the paper: log-probabilities are moved, then the softmax is taken again."""
    s = [one.log() for one in softmax(z)]
    moved = [
        max(s) + head.eps if state["promoted_E"][i] else min(s) - head.eps if state["suppressed_E"][i] else one
        for i, one in enumerate(s)
    ]
    return kept(softmax(moved), first(moved), renormalise)


def temperature(z, state, head, renormalise):
    theta_E = state["theta"].expand(E)
    weights = kept(softmax([one / theta.exp() for one, theta in zip(z, theta_E, strict=True)]), first(z), renormalise)
    base = kept(softmax(z), first(z), renormalise)
    return with_sum(weights, sum(base.values())) if head.mass == "preserved" else weights


REFERENCES = {
    AccuracyBiasHead: accuracy_bias,
    EntropyKHead: entropy_k,
    FixedKHead: fixed_k,
    LossFreeBiasHead: loss_free_bias,
    PostSoftmaxHead: post_softmax,
    QuantileBalanceHead: quantile_balance,
    ReluHead: relu,
    RenormalisedHead: renormalised,
    SigmoidHead: sigmoid,
    SteerHead: steer,
    TemperatureHead: temperature,
    TopPHead: top_p,
}
HEADS = [
    *(AccuracyBiasHead(mode=mode) for mode in ("logit", "select", "weight")),
    *(EntropyKHead(ks) for ks in ([1, 16], [2, 4, 9], [1, 2, 3, 99])),
    *(FixedKHead(k, renormalise) for k in (1, 3, 4, 9, 16) for renormalise in (False, True)),
    *(LossFreeBiasHead(), QuantileBalanceHead(), PostSoftmaxHead()),
    *(ReluHead(slots) for slots in (1, 3, 16, 99)),
    *(RenormalisedHead(scale) for scale in ("calibrated", "learned")),
    *(SigmoidHead(score) for score in ("sigmoid", "sqrt_softplus")),
    *(SteerHead(*counts) for counts in ((1, 0), (0, 2), (2, 1))),
    *(TemperatureHead(0.3, mode="learned", mass=mass) for mass in ("raw", "preserved")),
    *(TemperatureHead(3.0, mode="learned", mass=mass, per="expert") for mass in ("raw", "preserved")),
    *(TopPHead(*case) for case in ((0.1, 16), (0.5, 16), (0.9, 16), (0.9, 3), (1.0, 16), (0.7, 1))),
]


@pytest.mark.reference(*(kind.__name__ for kind in REFERENCES))
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_a_decision_equals_the_slow_reference(head, renormalise):
    rule = SoftmaxRule(K, E, renormalise)
    bound = bound_to(rule, head)
    bound.calibrate(layer_table(E, top_k=K))
    for name, value in bound.state_dict().items():
        if value.is_floating_point() and name != "thresholds_J":  # these stay in order
            value.add_(0.1 * torch.randn(value.shape))
    logits_TE, pull_E = (2 * torch.randn(T, E)).requires_grad_(), torch.randn(E)
    came = decide(bound, rule, torch.zeros(T, 4), logits_TE)
    used_TK = torch.ones_like(came.experts_TK, dtype=torch.bool) if came.used_TK is None else came.used_TK
    assert not came.weights_TK[~used_TK].any(), "a spare slot weighs nothing"
    assert torch.where(used_TK, came.experts_TK[:, :1], came.experts_TK).eq(came.experts_TK[:, :1]).all()
    parameters = dict(bound.named_parameters())
    ours = torch.autograd.grad((came.weights_TK * pull_E[came.experts_TK]).sum(), [logits_TE, *parameters.values()])

    exact_TE = logits_TE.detach().double().requires_grad_()
    state = {name: value.detach().double() for name, value in bound.state_dict().items()}
    leaves = [exact_TE, *(state[name].requires_grad_() for name in parameters)]
    total, terms, floor = torch.zeros((), dtype=torch.float64), 0.0, 0.0 if isinstance(head, ReluHead) else 1e-6
    for token in range(T):
        wanted = REFERENCES[type(head)](list(exact_TE[token]), state, head, renormalise)
        assert came.experts_TK[token][used_TK[token]].tolist() == list(wanted)
        weights = [float(one.detach()) for one in wanted.values()]
        assert came.weights_TK[token][used_TK[token]].tolist() == pytest.approx(weights, rel=1e-5, abs=floor)
        total = total + sum(one * pull_E[i].double() for i, one in wanted.items())
        terms += sum(abs(one * float(pull_E[i])) for i, one in zip(wanted, weights, strict=True))
    for name, mine, theirs in zip(["logits", *parameters], ours, torch.autograd.grad(total, leaves), strict=True):
        floor = rounding_of(pull_E if name == "logits" else 10 * terms)
        torch.testing.assert_close(mine.double(), theirs, atol=floor, rtol=1e-4, msg=name)
