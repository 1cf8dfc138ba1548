"""Losses of router weights, of answers and of the training split's table, beside the routing of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from made_up import loss_context
from tolerances import rounding_of

import moe_tune.losses  # noqa: F401 (finds the losses)
from moe_tune.base.errors import ConfigError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.losses.accuracy_pull import AccuracyPullLoss, accuracy_zscore
from moe_tune.losses.base import AuxLoss
from moe_tune.losses.router_distillation import RouterDistillationLoss, distillation
from moe_tune.losses.router_orthogonality import RouterOrthogonalityLoss, relative_change, row_overlap

# Router weights


@pytest.mark.reference("RouterOrthogonalityLoss")
def test_row_overlap_agrees_with_loops():
    weight_ED = torch.randn(5, 7, requires_grad=True)
    exact_ED = weight_ED.detach().double().requires_grad_()
    total = 0.0
    for i in range(5):
        for j in range(5):
            a, b = exact_ED[i], exact_ED[j]
            total = total + abs((a @ b) / (a.norm() * b.norm()) - (1.0 if i == j else 0.0))
    wanted, mine = total / 20, row_overlap(weight_ED)
    assert mine.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours, theirs = torch.autograd.grad(mine, weight_ED)[0], torch.autograd.grad(wanted, exact_ED)[0]
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_row_overlap_at_its_ends_whatever_the_length_of_the_rows():
    assert row_overlap(torch.diag(torch.tensor([1.0, 20.0, 0.3]))).item() == 0
    assert row_overlap(torch.tensor([[1.0, 2.0], [-3.0, -6.0], [0.1, 0.2]])).item() == pytest.approx(1)


def test_row_overlap_is_exact_under_autocast():
    weight_ED = torch.randn(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(row_overlap(weight_ED), row_overlap(weight_ED.clone()))
        inside = row_overlap(weight_ED)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, row_overlap(weight_ED))


def test_relative_change():
    start_ED, change_ED = torch.randn(4, 6), torch.randn(4, 6)
    assert relative_change(start_ED, start_ED).item() == 0
    assert relative_change(torch.zeros(4, 6), start_ED).item() == pytest.approx(1)
    wanted = change_ED.double().norm() ** 2 / start_ED.double().norm() ** 2
    assert relative_change(start_ED + change_ED, start_ED).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_anchor_pulls_back_to_the_pretrained_weight(random_trace):
    context = loss_context()
    RouterOrthogonalityLoss(target="anchor").compute(random_trace((2, 1), 2), context).backward()
    for layer in context.view.values():
        away_ED = layer.weight_ED.detach() - layer.pretrained_ED
        wanted_ED = 2 * away_ED / layer.pretrained_ED.square().sum() / 3
        torch.testing.assert_close(layer.weight_ED.grad, wanted_ED)


def test_a_router_without_a_single_weight_is_refused_by_name(random_trace):
    class ManyHead:
        pass

    class Layer:
        head = ManyHead()
        pretrained_ED = torch.ones(2, 2)

        def router_weight(self):
            return None

    context = loss_context()
    context.view[1] = Layer()
    with pytest.raises(ConfigError, match=r"layer 1 .*RouterOrthogonalityLoss"):
        RouterOrthogonalityLoss().compute(random_trace((2, 1), 2), context)


# Distillation


@pytest.mark.reference("RouterDistillationLoss")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_agrees_with_loops(temperature):
    logits_BV, teacher_BV = torch.randn(3, 7, requires_grad=True), torch.randn(3, 7)
    exact_BV = logits_BV.detach().double().requires_grad_()
    total = 0.0
    for row in range(3):
        mine = [(one / temperature).exp() for one in exact_BV[row]]
        theirs = [math.exp(one / temperature) for one in teacher_BV[row].tolist()]
        for p, q in zip(theirs, mine, strict=True):
            share = p / sum(theirs)
            total = total + share * (math.log(share) - (q / sum(mine)).log())
    wanted, value = temperature**2 * total / 3, distillation(logits_BV, teacher_BV, temperature)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-5, abs=temperature**2 * rounding_of(1.0))
    ours, expected = torch.autograd.grad(value, logits_BV)[0], torch.autograd.grad(wanted, exact_BV)[0]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=temperature * rounding_of(1.0))


def test_distillation_is_zero_for_the_teacher_itself_and_leaves_it_alone():
    teacher_BV = torch.randn(3, 7, requires_grad=True)
    logits_BV = (teacher_BV.detach() + 5).requires_grad_()  # a constant changes nothing
    value = distillation(logits_BV, teacher_BV, 2.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=2.0**2 * rounding_of(logits_BV / 2.0))
    assert teacher_BV.grad is None


def test_distillation_reads_the_answers_alone(random_trace):
    context = loss_context()
    value = RouterDistillationLoss(temperature=3.0).compute(random_trace((2, 1), 2), context)
    torch.testing.assert_close(value, distillation(context.logits_BV, context.teacher_logits_BV, 3.0))


# Accuracy pull


def test_zscores_have_mean_zero_and_spread_one_over_the_known_experts():
    chosen_E = torch.tensor([400, 300, 200, 100, 29, 0])
    correct_E = torch.tensor([200, 90, 150, 20, 29, 0])
    score_E = accuracy_zscore(chosen_E, correct_E, 30, 50.0)
    assert score_E[:4].mean().item() == pytest.approx(0, abs=rounding_of(score_E))
    assert score_E[:4].std(correction=0).item() == pytest.approx(1)
    assert score_E[4:].tolist() == [0, 0]
    assert score_E[2] > score_E[0] > score_E[1]


def test_nothing_is_known_of_few_questions_or_of_experts_all_alike():
    assert not accuracy_zscore(torch.tensor([5, 4]), torch.tensor([5, 0]), 30, 50.0).any()
    assert not accuracy_zscore(torch.tensor([100, 100]), torch.tensor([40, 40]), 30, 50.0).any()
    assert not accuracy_zscore(torch.tensor([0, 0]), torch.tensor([0, 0]), 0, 0.0).any()


def test_shrinkage_puts_well_known_experts_ahead_of_lucky_ones():
    chosen_E, correct_E = torch.tensor([1000, 30, 1000]), torch.tensor([800, 25, 300])
    raw, shrunk = (accuracy_zscore(chosen_E, correct_E, 30, k) for k in (0.0, 200.0))
    assert raw[1] > raw[0]
    assert shrunk[1] < shrunk[0]


def test_values_at_a_uniform_gate_and_at_the_best_expert(random_trace):
    context = loss_context(layers=(0,))
    trace = random_trace((3, 2), 3, layers=(0,))
    table = context.tables[0]
    score_E = accuracy_zscore(table.chosen_E, table.correct_E, 30, 50.0)
    loss, output = AccuracyPullLoss(), trace.outputs[0]
    output.probs_TE = torch.full((6, 8), 1 / 8)
    assert loss.compute(trace, context).item() == pytest.approx(0, abs=rounding_of(score_E))
    output.probs_TE = torch.eye(8)[score_E.argmax()].expand(6, 8)
    assert loss.compute(trace, context).item() == pytest.approx(-score_E.max().item())


def test_a_layers_own_table_counts(random_trace):
    context, trace = loss_context(), random_trace((3, 2), 3)
    loss = AccuracyPullLoss(layers=[1])
    value = loss.compute(trace, context)
    others = {**context.tables, 0: context.tables[2]}
    assert torch.equal(loss.compute(trace, replace(context, tables=others)), value)
    swapped = {**context.tables, 1: context.tables[2]}
    assert not torch.equal(loss.compute(trace, replace(context, tables=swapped)), value)


OUTSIDE = {
    ("AccuracyPullLoss", "shrinkage"): (-1.0,),
    ("DeadExpertHingeLoss", "tau"): (0.0, 1.5, math.nan),
    ("MarginalEntropyLoss", "momentum"): (-0.1, 1.0, math.nan),
    ("RouterDistillationLoss", "temperature"): (0.0, -1.0, math.inf, math.nan),
}


@pytest.mark.parametrize(("kind", "key"), OUTSIDE)
def test_impossible_settings_are_refused(kind, key):
    for value in OUTSIDE[kind, key]:
        with pytest.raises(ConfigError, match=rf"{kind}\.{key}"):
            concrete_subclasses(AuxLoss)[kind](**{key: value})
