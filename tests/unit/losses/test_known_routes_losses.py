"""Losses that read the routing of single training questions, against sums written out."""

from dataclasses import replace

import pytest
import torch
from made_up import loss_context

from moe_tune.base.errors import ConfigError
from moe_tune.losses.manifold import ManifoldLoss
from moe_tune.losses.oracle_distillation import OracleDistillationLoss
from moe_tune.routing import NeighbourRoutes

LENGTHS = (4, 1, 3, 5, 2)


def answer_probs(trace, layer):
    """Return the probabilities at each question's answer position, in the order of the questions."""
    place = [5 * row + length - 1 for row, length in enumerate(LENGTHS)]
    return trace.outputs[layer].probs_TE.detach()[place]


@pytest.mark.reference("OracleDistillationLoss")
def test_oracle_distillation_is_the_mean_divergence_of_questions_that_end_right(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    wanted = 0.0
    for layer in (0, 1, 2):
        for question, mine_E in enumerate(answer_probs(trace, layer)):
            sought_E = context.oracle.probs_QE[layer][question]
            if context.oracle.right_Q[question]:
                wanted += float((sought_E * (sought_E / mine_E).log()).sum()) / 5 / 3
    assert not context.oracle.right_Q.all()
    assert OracleDistillationLoss().compute(trace, context).item() == pytest.approx(wanted, rel=1e-5)


def test_oracle_distillation_vanishes_at_the_oracle(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    probs = {layer: answer_probs(trace, layer) for layer in (0, 1, 2)}
    value = OracleDistillationLoss().compute(trace, replace(context, oracle=replace(context.oracle, probs_QE=probs)))
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.reference("ManifoldLoss")
def test_the_manifold_loss_is_the_weighted_squared_distance_to_the_neighbours(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    like, wanted = context.neighbours, 0.0
    for layer in (0, 1, 2):
        for question, mine_E in enumerate(answer_probs(trace, layer)):
            for place, neighbour in enumerate(like.neighbour_QN[question].tolist()):
                away = (mine_E - like.probs_RE[layer][neighbour]).square().sum()
                wanted += float(like.weight_QN[question, place] * away) / 5
    assert ManifoldLoss().compute(trace, context).item() == pytest.approx(wanted, rel=1e-5)
    assert ManifoldLoss().weight == 0.8


def test_the_manifold_loss_looks_at_the_last_five_layers(random_trace):
    layers = tuple(range(7))
    trace, other = (random_trace(LENGTHS, 5, layers=layers, seed=seed) for seed in (1, 2))
    context = loss_context(layers=layers, scope="answer")
    value = ManifoldLoss().compute(trace, context)
    trace.outputs[1] = other.outputs[1]
    assert torch.equal(ManifoldLoss().compute(trace, context), value)
    trace.outputs[2] = other.outputs[2]
    assert not torch.equal(ManifoldLoss().compute(trace, context), value)


def test_without_a_correctly_answered_question_the_manifold_loss_is_0_and_keeps_its_gradient(random_trace):
    context = loss_context(scope="answer")
    none = NeighbourRoutes(context.neighbours.probs_RE, torch.zeros(5, 0, dtype=torch.long), torch.zeros(5, 0))
    value = ManifoldLoss().compute(random_trace(LENGTHS, 5), replace(context, neighbours=none))
    assert value.item() == 0
    assert value.requires_grad


@pytest.mark.parametrize("kind", [OracleDistillationLoss, ManifoldLoss])
def test_a_layer_of_which_nothing_was_made_is_refused(kind, random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(layers=(1, 2), scope="answer")
    with pytest.raises(ConfigError, match=r"layers with a head, \[1, 2\], but got \[0, 1\]"):
        kind(layers=[0, 1]).compute(trace, context)


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"rate": float("inf")}])
def test_impossible_searches_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        OracleDistillationLoss(**options)
