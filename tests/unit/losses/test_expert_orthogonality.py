"""Expert orthogonality against a projection written out, and at outputs whose overlap is known."""

import numpy as np
import pytest
import torch
from made_up import loss_context
from tolerances import rounding_of

from moe_tune.losses.expert_orthogonality import ExpertOrthogonalityLoss, output_cosines, projected_shares
from moe_tune.routing import RouterOutput, RoutingTrace, SoftmaxRule

FORMS = ["projection", "pairwise"]


class Fixed:
    """A layer whose experts give the same outputs whatever the token."""

    def __init__(self, outputs_ED):
        self.outputs_ED = outputs_ED

    def outputs(self, hidden_TD, experts_TK):
        return self.outputs_ED[experts_TK]


def one_layer(outputs_ED, weights_TK, used_TK=None):
    """Return a trace and a context of one layer whose tokens all choose the first K experts."""
    tokens, slots = weights_TK.shape
    experts_TK = torch.arange(slots).expand(tokens, slots)
    if used_TK is not None:
        experts_TK = torch.where(used_TK, experts_TK, experts_TK[:, :1])
    trace = RoutingTrace.of_batch(torch.ones(1, tokens))
    logits_TE = torch.zeros(tokens, len(outputs_ED))
    output = RouterOutput(logits_TE, logits_TE, weights_TK, experts_TK, trace.real_T, 0, used_TK)
    output.hidden_TD = torch.zeros(tokens, outputs_ED.shape[1])
    trace.record(output)
    context = loss_context(SoftmaxRule(slots, len(outputs_ED), False), layers=(0,))
    context.view[0] = Fixed(outputs_ED)
    return trace, context


def value(form, *arguments):
    return ExpertOrthogonalityLoss(form=form).compute(*one_layer(*arguments)).item()


def reference(form, outputs, weights):
    """Return the loss of one token by least squares, in float64."""
    e = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    v, slots = weights / weights.sum(), len(e)
    if form == "pairwise":
        total = sum(v[j] * v[k] * (e[j] @ e[k]) ** 2 for j in range(slots) for k in range(slots) if j != k)
        return total / (slots * (slots - 1))
    total = 0.0
    for k in range(slots):
        others = np.delete(e, k, axis=0)
        coefficients = np.linalg.lstsq(others.T, e[k], rcond=1e-9)[0]
        total += v[k] ** 2 * np.sum((others.T @ coefficients) ** 2)
    return total / slots


@pytest.mark.reference("ExpertOrthogonalityLoss")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("slots", "width"), [(2, 16), (4, 16), (8, 5), (1, 4)])
def test_agrees_with_least_squares(form, slots, width):
    """Also where K unit vectors of a narrow width are dependent, so that every projection is the vector itself."""
    outputs_ED, weights_TK = torch.randn(slots + 1, width), torch.rand(3, slots) + 0.05
    if slots == 1:
        assert value(form, outputs_ED, weights_TK) == pytest.approx(0, abs=1e-7)
        return
    wanted = [reference(form, outputs_ED[:slots].double().numpy(), row.double().numpy()) for row in weights_TK]
    assert value(form, outputs_ED, weights_TK) == pytest.approx(np.mean(wanted), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_documented_values(form):
    even_TK = torch.full((3, 8), 0.01)
    assert value(form, 7 * torch.eye(8), even_TK) == pytest.approx(0, abs=1e-7)
    assert value(form, torch.randn(1, 16).expand(8, 16) * torch.arange(1, 9)[:, None], even_TK) == pytest.approx(1 / 64)


@pytest.mark.parametrize("form", FORMS)
def test_shrinking_all_weights_gains_nothing(form):
    outputs_ED, weights_TK = torch.randn(4, 6), torch.rand(3, 4)
    assert value(form, outputs_ED, 0.1 * weights_TK) == pytest.approx(value(form, outputs_ED, weights_TK), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_spare_slots_are_no_experts(form):
    """Two slots of four in use are worth what two slots are."""
    outputs_ED, weights_TK = torch.randn(4, 6), torch.tensor([[0.6, 0.3, 0.0, 0.0]])
    used_TK = torch.tensor([[True, True, False, False]])
    wanted = value(form, outputs_ED, weights_TK[:, :2])
    assert value(form, outputs_ED, weights_TK, used_TK) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_descent_moves_weight_to_the_expert_that_differs(form):
    same, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    weights_TK = torch.full((1, 3), 1 / 3, requires_grad=True)
    ExpertOrthogonalityLoss(form=form).compute(*one_layer(torch.stack([same, same, other]), weights_TK)).backward()
    gradient = weights_TK.grad[0]
    assert gradient[2] < 0 < gradient[0]
    assert gradient[0] == pytest.approx(gradient[1])
    assert gradient.sum().item() == pytest.approx(0, abs=rounding_of(1.0))


@pytest.mark.parametrize("form", FORMS)
def test_gradient_of_the_weights(form):
    outputs_ED = torch.randn(3, 5)

    def loss(weights_TK):
        return ExpertOrthogonalityLoss(form=form).compute(*one_layer(outputs_ED, weights_TK))

    assert torch.autograd.gradcheck(loss, (torch.rand(2, 3).double() + 0.1).requires_grad_())


def test_projected_shares_of_coinciding_and_missing_outputs():
    outputs_TKD = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    shares_TK = projected_shares(output_cosines(outputs_TKD))
    torch.testing.assert_close(shares_TK, torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double(), atol=1e-6, rtol=0)


def test_no_gradient_reaches_the_hidden_state(random_trace):
    trace, context = random_trace((3, 2), 3), loss_context()
    for output in trace.outputs.values():
        output.hidden_TD = output.hidden_TD.requires_grad_()
    ExpertOrthogonalityLoss().compute(trace, context).backward()
    assert all(output.hidden_TD.grad is None for output in trace.outputs.values())
