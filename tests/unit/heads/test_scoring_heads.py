"""Heads that score anew (scale and bias, low rank, small network, cosine) against slow float64 references."""

import math

import pytest
import torch
from made_up import layer_table
from torch.nn import functional

from moe_tune.heads.base import BaseGate
from moe_tune.heads.cosine import CosineHead
from moe_tune.heads.low_rank import LowRankHead
from moe_tune.heads.mlp import MlpHead
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.scale_bias import ScaleBiasHead
from moe_tune.heads.stack import Stack
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
DRAW = torch.Generator().manual_seed(7)
BASE_ED, HIDDEN_TD, PULL_TE = (torch.randn(*shape, generator=DRAW) for shape in ((8, 16), (12, 16), (12, 8)))


def bound(head, by=0.0):
    """Return a head bound to the base weight, every tensor moved from its start."""
    one = head.bound_to(BaseGate(BASE_ED, RULE, 0))
    for value in one.state_dict().values():
        value.add_(by * torch.randn(value.shape))
    return one


def scores(head):
    return head.score(HIDDEN_TD, functional.linear(HIDDEN_TD, BASE_ED))


def product(rows, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in rows]


def slow_scale_bias(z, h, state, head):
    return [s * value + b for s, value, b in zip(state["scale_E"], z, state["bias_E"], strict=True)]


def slow_low_rank(z, h, state, head):
    change = product(state["up_ER"], product(state["down_RD"], h))
    return [value + head.alpha / head.rank * more for value, more in zip(z, change, strict=True)]


def slow_mlp(z, h, state, head):
    inner = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in product(state["inner_MD"], h)]
    return [value + more for value, more in zip(z, product(state["outer_EM"], inner), strict=True)]


def slow_cosine(z, h, state, head):
    def unit(vector):
        return [value / math.sqrt(sum(v * v for v in vector)) for value in vector]

    rows = state["weight"] if head.trains_weight else BASE_ED.double().tolist()
    return [state["scale"] * value for value in product([unit(row) for row in rows], unit(h))]


CASES = [
    (ScaleBiasHead, {}, slow_scale_bias),
    (LowRankHead, {"rank": 3, "alpha": 5.0}, slow_low_rank),
    (MlpHead, {"width": 6}, slow_mlp),
    (CosineHead, {"train": "scale"}, slow_cosine),
    (CosineHead, {"train": "all"}, slow_cosine),
]
each_case = pytest.mark.parametrize(("kind", "options", "slow"), CASES)


@pytest.mark.reference("ScaleBiasHead", "LowRankHead", "MlpHead", "CosineHead")
@each_case
def test_scores_equal_the_slow_reference(kind, options, slow):
    head = bound(kind(**options), by=0.5)
    state = {name: value.double().tolist() for name, value in head.state_dict().items()}
    came = scores(head)
    for token, h in enumerate(HIDDEN_TD.double().tolist()):
        z = product(BASE_ED.double().tolist(), h)
        assert came[token].tolist() == pytest.approx(slow(z, h, state, head), abs=1e-4, rel=1e-4)


@each_case
def test_gradients_equal_finite_differences_of_the_slow_reference(kind, options, slow):
    head = bound(kind(**options), by=0.5)
    (scores(head) * PULL_TE).sum().backward()
    base, pull = BASE_ED.double().tolist(), PULL_TE.double().tolist()

    def pulled(changed, step):
        state = {name: value.detach().double() for name, value in head.state_dict().items()}
        state[changed] = state[changed] + step
        state = {name: value.tolist() for name, value in state.items()}
        rows = [slow(product(base, h), h, state, head) for h in HIDDEN_TD.double().tolist()]
        return sum(sum(product([p], row)) for p, row in zip(pull, rows, strict=True))

    for name, parameter in head.named_parameters():
        step = torch.randn(parameter.shape, dtype=torch.float64)
        wanted = (pulled(name, 1e-6 * step) - pulled(name, -1e-6 * step)) / 2e-6
        assert float((parameter.grad.double() * step).sum()) == pytest.approx(wanted, rel=1e-4, abs=1e-3), name


@pytest.mark.parametrize("kind", [LowRankHead, MlpHead])
def test_the_first_step_moves_the_outer_matrix_alone(kind):
    head = bound(kind())
    inner, outer = head.parameters()
    assert not outer.any()
    (scores(head) * PULL_TE).sum().backward()
    assert not inner.grad.any()
    assert outer.grad.abs().max() > 0


@pytest.mark.parametrize("kind", [LowRankHead, MlpHead])
def test_the_inner_matrix_is_drawn_from_the_seed_with_variance_one_over_width(kind):
    gate = BaseGate(torch.zeros(8, 4096), RULE, 0)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(next(kind().bound_to(gate).parameters()).detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert float(drawn[0].std()) == pytest.approx(1 / 64, rel=0.02)


def test_a_low_rank_change_has_its_rank_and_is_the_routers_weight():
    head = bound(LowRankHead(rank=2), by=0.5)
    weight_ED = head.router_weight(BASE_ED)
    assert weight_ED.requires_grad
    assert torch.linalg.matrix_rank(weight_ED.detach() - BASE_ED, atol=1e-4) == 2
    torch.testing.assert_close(scores(head), functional.linear(HIDDEN_TD, weight_ED), atol=1e-4, rtol=1e-4)


def test_in_a_stack_the_changes_of_weight_add_up():
    stack = bound(Stack({"own": RetunedHead(), "low": LowRankHead()}), by=0.3)
    weight_ED = stack.router_weight(BASE_ED)
    torch.testing.assert_close(scores(stack), functional.linear(HIDDEN_TD, weight_ED), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [ScaleBiasHead, MlpHead, CosineHead])
def test_what_is_not_linear_has_no_router_weight(kind):
    assert bound(kind()).router_weight(BASE_ED) is None


@pytest.mark.parametrize("train", ["scale", "all"])
def test_calibrated_cosines_spread_as_the_pretrained_logits(train):
    table = layer_table()
    head = bound(CosineHead(train=train))
    assert head.scale.item() == 1.0
    head.calibrate(table)
    came = head.score(table.hidden_QD, table.logits_QE).detach()
    assert float(came.std(correction=0)) == pytest.approx(float(table.logits_QE.std(correction=0)), rel=1e-5)
    assert head.scale.requires_grad


def test_cosines_know_no_lengths():
    head = bound(CosineHead())
    stretched = CosineHead().bound_to(BaseGate(BASE_ED * torch.rand(8, 1).add(0.5), RULE, 0))
    logits_TE = torch.zeros(12, 8)
    came = stretched.score(3 * HIDDEN_TD, logits_TE)
    torch.testing.assert_close(came, head.score(HIDDEN_TD, logits_TE))
    assert came.abs().max() <= 1 + 1e-6
    assert head.score(torch.zeros(1, 16), logits_TE[:1]).eq(0).all()


def test_factors_near_one_count_at_half_precision():
    """In bfloat16 1.001 is 1; the head computes in float32."""
    head = bound(ScaleBiasHead())
    head.scale_E.data.fill_(1.001)
    logits_TE = torch.full((2, 8), 4.0, dtype=torch.bfloat16)
    torch.testing.assert_close(head.score(HIDDEN_TD[:2], logits_TE), torch.full((2, 8), 4.004))
