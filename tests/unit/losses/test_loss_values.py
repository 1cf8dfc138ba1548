"""The documented values of the auxiliary losses, for 64 experts, 8 per token, and the library they agree with."""

import math

import pytest
import torch
from made_up import loss_context
from tolerances import rounding_of
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from moe_tune.losses.dead_expert_hinge import DeadExpertHingeLoss
from moe_tune.losses.global_load_balance import GlobalLoadBalanceLoss
from moe_tune.losses.load_balance import LoadBalanceLoss, load_balance
from moe_tune.losses.load_concentration import LoadConcentrationLoss
from moe_tune.losses.marginal_entropy import MarginalEntropyLoss
from moe_tune.losses.mutual_information import MutualInformationLoss
from moe_tune.losses.pooled_load_balance import PooledLoadBalanceLoss
from moe_tune.losses.probability_variance import ProbabilityVarianceLoss
from moe_tune.losses.relu_l1 import ReluL1Loss
from moe_tune.losses.sequence_load_balance import SequenceLoadBalanceLoss
from moe_tune.losses.squared_variation import SquaredVariationLoss
from moe_tune.losses.token_entropy import TokenEntropyLoss
from moe_tune.losses.uniform_distance import UniformDistanceLoss
from moe_tune.losses.z_loss import ZLoss
from moe_tune.routing import RouterOutput, RoutingTrace, SoftmaxRule, stable_top_k

E, K, TOKENS = 64, 8, 64
RULE = SoftmaxRule(K, E, False)
UNIFORM_TE = torch.full((TOKENS, E), 1 / E)
CYCLIC_TK = (torch.arange(TOKENS)[:, None] + torch.arange(K)) % E


def set_of(index):
    """Return probabilities spread evenly over the index-th set of K experts, and the choice of that set."""
    experts_TK = (torch.arange(K) + K * index).expand(TOKENS, K)
    return torch.zeros(TOKENS, E).scatter(-1, experts_TK, 1 / K), experts_TK


def trace_of(*layers, logits_TE=None):
    """Return a trace of layers given as (probabilities, choices)."""
    trace = RoutingTrace.of_batch(torch.ones(4, TOKENS // 4))
    for index, (probs_TE, experts_TK) in enumerate(layers):
        logits = probs_TE.log() if logits_TE is None else logits_TE
        weights_TK = probs_TE.gather(-1, experts_TK)
        trace.record(RouterOutput(logits, probs_TE, weights_TK, experts_TK, trace.real_T, index))
    return trace


def context_of(rule, layers):
    return loss_context(rule, tuple(range(layers)))


def value(loss, *layers, **options):
    return loss.compute(trace_of(*layers, **options), context_of(RULE, len(layers))).item()


@pytest.mark.reference("LoadBalanceLoss")
def test_load_balance_at_balance_and_at_collapse():
    loss = LoadBalanceLoss()
    assert value(loss, (UNIFORM_TE, CYCLIC_TK)) == pytest.approx(1)
    assert value(loss, set_of(0)) == pytest.approx(E / K)
    assert value(loss, (UNIFORM_TE, set_of(0)[1])) == pytest.approx(1), "1 as soon as P is uniform"
    skewed_TE = torch.softmax(torch.randn(TOKENS, E), -1)
    assert value(loss, (skewed_TE, CYCLIC_TK)) == pytest.approx(1), "1 as soon as F is uniform"
    half_TE = 0.5 * set_of(0)[0] + 0.5 * set_of(1)[0]
    assert value(loss, (half_TE, set_of(0)[1])) == pytest.approx(0.5 * E / K), "E/K times the mass on the set"
    assert value(loss, set_of(0), set_of(1)) == pytest.approx(E / K), "a mean over layers hides no collapse"


def test_load_balance_is_above_one_by_chance():
    """The documented 1.08 for 32 independent tokens that choose by a logit of standard deviation 1."""
    draw = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        logits_TE = torch.randn(32, E, generator=draw)
        probs_TE, experts_TK = torch.softmax(logits_TE, -1), stable_top_k(logits_TE, K)
        output = RouterOutput(logits_TE, probs_TE, probs_TE[:, :K], experts_TK, torch.ones(32).bool(), 0)
        values.append(load_balance(output).item())
    assert sum(values) / len(values) == pytest.approx(1.08, abs=0.02)


def test_pooled_load_balance_cannot_see_layers_that_collapse_apart():
    loss = PooledLoadBalanceLoss()
    assert value(loss, (UNIFORM_TE, CYCLIC_TK)) == pytest.approx(8)
    assert value(loss, set_of(0), set_of(0)) == pytest.approx(64)
    assert value(loss, *map(set_of, range(8))) == pytest.approx(8)


@pytest.mark.reference("PooledLoadBalanceLoss")
@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 1)])
def test_pooled_load_balance_is_that_of_transformers(random_trace, lengths):
    trace = random_trace(lengths, 5)
    logits = tuple(output.logits_TE for output in trace.outputs.values())
    mask_BS = trace.real_T.view(3, 5).long()
    theirs = load_balancing_loss_func(logits, 8, 2, mask_BS)
    ours = PooledLoadBalanceLoss().compute(trace, context_of(SoftmaxRule(2, 8, False), 3))
    torch.testing.assert_close(ours, theirs)
    for mine, wanted in zip(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.reference("ZLoss")
def test_z_loss():
    layer = (UNIFORM_TE, CYCLIC_TK)
    assert value(ZLoss(), layer, logits_TE=torch.zeros(TOKENS, E)) == pytest.approx(math.log(64) ** 2)
    assert value(ZLoss(), layer, logits_TE=torch.full((TOKENS, E), -math.log(64))) == pytest.approx(0, abs=1e-9)
    assert value(ZLoss(), layer, logits_TE=torch.full((TOKENS, E), 2.0)) == pytest.approx((2 + math.log(64)) ** 2)


@pytest.mark.reference("TokenEntropyLoss")
@pytest.mark.parametrize(("over", "top"), [("all", math.log(64)), ("chosen", math.log(8))])
def test_token_entropy(over, top):
    loss = TokenEntropyLoss(over=over)
    one_hot_TE = torch.eye(E)
    assert value(loss, (UNIFORM_TE, CYCLIC_TK)) == pytest.approx(top, rel=1e-6)
    assert value(loss, set_of(3)) == pytest.approx(math.log(8), rel=1e-6)
    assert value(loss, (one_hot_TE, CYCLIC_TK)) == pytest.approx(0, abs=1e-6)


def test_a_positive_weight_on_token_entropy_sharpens():
    def entropy_at(logits_TE):
        return TokenEntropyLoss().compute(
            trace_of((torch.softmax(logits_TE, -1), stable_top_k(logits_TE, K)), logits_TE=logits_TE),
            context_of(RULE, 1),
        )

    logits_TE = torch.randn(TOKENS, E, requires_grad=True)
    before = entropy_at(logits_TE)
    before.backward()
    assert entropy_at((logits_TE - 10 * logits_TE.grad).detach()) < before


LOG_E, LOG_K = math.log(E), math.log(K)
UNIFORM, ONE_SET = (UNIFORM_TE, CYCLIC_TK), set_of(0)
ONE_EXPERT = (torch.eye(E)[:1].expand(TOKENS, E), set_of(0)[1])
BALANCED_ONE_HOT = (torch.eye(E), CYCLIC_TK)


@pytest.mark.parametrize(
    ("loss", "layer", "wanted"),
    [
        (SequenceLoadBalanceLoss(), UNIFORM, 1),
        (SequenceLoadBalanceLoss(), ONE_SET, E / K),
        (GlobalLoadBalanceLoss(), UNIFORM, 1),
        (GlobalLoadBalanceLoss(), ONE_SET, E / K),
        (MarginalEntropyLoss(), UNIFORM, -LOG_E),
        (MarginalEntropyLoss(), ONE_SET, -LOG_K),
        (MarginalEntropyLoss(), ONE_EXPERT, 0),
        (MarginalEntropyLoss(), BALANCED_ONE_HOT, -LOG_E),
        (MutualInformationLoss(), UNIFORM, 0),
        (MutualInformationLoss(), ONE_SET, 0),
        (MutualInformationLoss(), BALANCED_ONE_HOT, -LOG_E),
        (MutualInformationLoss(beta_c=2.0, beta_u=0.5), ONE_SET, 1.5 * LOG_K),
        (LoadConcentrationLoss(), UNIFORM, LOG_E),
        (LoadConcentrationLoss(), ONE_SET, LOG_K),
        (LoadConcentrationLoss(), ONE_EXPERT, 0),
        (ProbabilityVarianceLoss(), UNIFORM, 0),
        (ProbabilityVarianceLoss(), ONE_SET, -0.00173611),
        (ProbabilityVarianceLoss(), BALANCED_ONE_HOT, -1 / 64),
        (SquaredVariationLoss(), UNIFORM, 0),
        (SquaredVariationLoss(), ONE_SET, 64 / 9),
        (SquaredVariationLoss(), ONE_EXPERT, 64),
        (UniformDistanceLoss(), UNIFORM, 0),
        (UniformDistanceLoss(), (UNIFORM_TE, ONE_SET[1]), 0.00170898),
        (UniformDistanceLoss(), ONE_SET, 0.00341797),
        (DeadExpertHingeLoss(), UNIFORM, 0),
        (DeadExpertHingeLoss(), ONE_SET, 0.0875),
        (DeadExpertHingeLoss(tau=1.0), ONE_SET, 1 - K / E),
        (ReluL1Loss(), UNIFORM, 1e-8 * K / E),
        (ReluL1Loss(), ONE_SET, 1e-8 * E / K),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
def test_the_documented_values(loss, layer, wanted):
    subtracted = LOG_E if isinstance(loss, MutualInformationLoss) else 0.0 if isinstance(loss, ReluL1Loss) else 1.0
    assert value(loss, layer, layer) == pytest.approx(wanted, rel=2e-6, abs=rounding_of(subtracted, steps=8))
