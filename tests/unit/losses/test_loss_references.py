"""Losses of the routing agree, in value and gradient, with slow float64 references written from their formulas."""

import math

import pytest
import torch
from made_up import loss_context
from tolerances import rounding_of

from moe_tune.losses.accuracy_pull import AccuracyPullLoss
from moe_tune.losses.dead_expert_hinge import DeadExpertHingeLoss
from moe_tune.losses.global_load_balance import GlobalLoadBalanceLoss
from moe_tune.losses.load_concentration import LoadConcentrationLoss
from moe_tune.losses.marginal_entropy import MarginalEntropyLoss
from moe_tune.losses.mutual_information import MutualInformationLoss
from moe_tune.losses.probability_variance import ProbabilityVarianceLoss
from moe_tune.losses.relu_l1 import ReluL1Loss
from moe_tune.losses.routing_anchor import RoutingAnchorLoss
from moe_tune.losses.sequence_load_balance import SequenceLoadBalanceLoss
from moe_tune.losses.squared_variation import SquaredVariationLoss
from moe_tune.losses.uniform_distance import UniformDistanceLoss

E, K, LENGTHS, POSITIONS = 8, 2, (4, 1, 3, 5, 2), 5


class Token:
    """One token of a layer: its probabilities in float64, one by one, and the experts of its slots in use."""

    def __init__(self, logits_E, output, index):
        exponentials = [one.exp() for one in logits_E]
        self.p = [one / sum(exponentials) for one in exponentials]
        slots = [True] * K if output.used_TK is None else output.used_TK[index].tolist()
        self.chosen = [e for e, used in zip(output.experts_TK[index].tolist(), slots, strict=True) if used]
        base = [math.exp(one) for one in output.base_logits_TE[index].double().tolist()]
        self.p0 = [one / sum(base) for one in base]
        self.question = index // POSITIONS


def mean(values):
    return sum(values) / len(values)


def mean_p(tokens):
    return [mean([token.p[i] for token in tokens]) for i in range(E)]


def choices(tokens):
    return [sum(i in token.chosen for token in tokens) for i in range(E)]


def shannon(p):
    return -sum(one * one.log() for one in p)


def balance(tokens):
    c, p = choices(tokens), mean_p(tokens)
    return E * sum(c[i] / sum(c) * p[i] for i in range(E))


def by_question(tokens, table):
    questions = sorted({token.question for token in tokens})
    return mean([balance([token for token in tokens if token.question == one]) for one in questions])


def variance(values):
    centre = mean(values)
    return sum((one - centre) ** 2 for one in values) / (len(values) - 1)


def variation(tokens, table):
    importance = [sum(token.p[i] for token in tokens) for i in range(E)]
    return variance(importance) / mean(importance) ** 2


def distance(tokens, table):
    c, p = choices(tokens), mean_p(tokens)
    return mean([(c[i] / sum(c) - 1 / E) ** 2 for i in range(E)]) + mean([(one - 1 / E) ** 2 for one in p])


def relu_l1(tokens, table):
    c = choices(tokens)
    demand = sum(c[i] * sum(token.p[i] for token in tokens if i in token.chosen) for i in range(E))
    return 1e-8 * E / (K * len(tokens) ** 2) * demand


def anchor(tokens, table):
    return mean([sum(p0 * (math.log(p0) - p.log()) for p0, p in zip(t.p0, t.p, strict=True)) for t in tokens])


def pull(tokens, table):
    n, r = table.chosen_ES.sum(1).tolist(), table.correct_ES.sum(1).tolist()
    overall = sum(r) / sum(n)
    a = [(r[i] + 50 * overall) / (n[i] + 50) for i in range(E)]
    known = [i for i in range(E) if n[i] >= 90]
    assert 2 < len(known) < E, "some experts are to be left out"
    centre = mean([a[i] for i in known])
    spread = math.sqrt(mean([(a[i] - centre) ** 2 for i in known]))
    return -sum((a[i] - centre) / spread * mean_p(tokens)[i] for i in known)


CASES = [
    (SequenceLoadBalanceLoss(scope="all"), by_question),
    (GlobalLoadBalanceLoss(), lambda tokens, table: balance(tokens)),
    (MarginalEntropyLoss(), lambda tokens, table: -shannon(mean_p(tokens))),
    (
        MutualInformationLoss(beta_c=0.7, beta_u=1.3),
        lambda tokens, table: 0.7 * mean([shannon(token.p) for token in tokens]) - 1.3 * shannon(mean_p(tokens)),
    ),
    (LoadConcentrationLoss(), lambda tokens, table: shannon(mean_p(tokens))),
    (ProbabilityVarianceLoss(), lambda tokens, table: -mean([variance(token.p) for token in tokens])),
    (SquaredVariationLoss(), variation),
    (UniformDistanceLoss(), distance),
    (RoutingAnchorLoss(), anchor),
    (AccuracyPullLoss(n_min=90), pull),
    (DeadExpertHingeLoss(tau=0.9), lambda tokens, table: sum((0.9 / E - p).clamp(min=0) for p in mean_p(tokens))),
    (ReluL1Loss(), relu_l1),
]


@pytest.mark.reference(
    "AccuracyPullLoss",
    "DeadExpertHingeLoss",
    "GlobalLoadBalanceLoss",
    "LoadConcentrationLoss",
    "MarginalEntropyLoss",
    "MutualInformationLoss",
    "ProbabilityVarianceLoss",
    "ReluL1Loss",
    "RoutingAnchorLoss",
    "SequenceLoadBalanceLoss",
    "SquaredVariationLoss",
    "UniformDistanceLoss",
)
@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize(
    ("loss", "reference", "scope"),
    [(loss, reference, scope) for loss, reference in CASES for scope in loss.scopes],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_value_and_gradient(loss, reference, scope, spare, random_trace):
    loss.after_step()
    trace = random_trace(LENGTHS, POSITIONS, spare=spare)
    context = loss_context(scope=scope)
    if isinstance(loss, ReluL1Loss):
        loss.state["lambda"] = torch.tensor(1e-8)
    mine = loss.compute(trace, context)
    leaves, values = [], []
    for layer, output in trace.outputs.items():
        logits_TE = output.logits_TE.detach().double().requires_grad_()
        leaves.append(logits_TE)
        rows = trace.mask(scope).nonzero().flatten().tolist()
        tokens = [Token(logits_TE[row], output, row) for row in rows]
        values.append(reference(tokens, context.tables[layer]))
    wanted = mean(values)
    # Most subtract probabilities, or entropies made of them; the L1 loss does not, and is of the order of 1e-8.
    floor = 0.0 if isinstance(loss, ReluL1Loss) else rounding_of(1.0)
    assert mine.item() == pytest.approx(wanted.item(), rel=2e-5, abs=floor)
    theirs = torch.autograd.grad(wanted, leaves)
    ours = torch.autograd.grad(mine, [output.logits_TE for output in trace.outputs.values()])
    for here, there in zip(ours, theirs, strict=True):
        assert there.abs().max() > 0
        torch.testing.assert_close(here.double(), there, rtol=1e-4, atol=1e-5 * there.abs().max().item())


def test_routing_anchor_is_zero_without_gradient_at_the_pretrained_gate(random_trace):
    trace = random_trace(LENGTHS, POSITIONS)
    for output in trace.outputs.values():
        output.base_logits_TE = output.logits_TE.detach().clone()
    value = RoutingAnchorLoss().compute(trace, loss_context())
    value.backward()
    assert value.item() == pytest.approx(0, abs=rounding_of(1.0))
    assert all(output.logits_TE.grad.abs().max() < rounding_of(1.0) for output in trace.outputs.values())


def test_routing_anchor_stays_finite_where_a_probability_underflows(random_trace):
    trace = random_trace(LENGTHS, POSITIONS)
    logits_TE = torch.zeros(len(trace.real_T), E)
    logits_TE[:, 0] = -200
    logits_TE.requires_grad_()
    for output in trace.outputs.values():
        output.logits_TE, output.probs_TE = logits_TE, torch.softmax(logits_TE, -1)
    value = RoutingAnchorLoss().compute(trace, loss_context())
    value.backward()
    assert value.isfinite()
    assert logits_TE.grad.isfinite().all()
