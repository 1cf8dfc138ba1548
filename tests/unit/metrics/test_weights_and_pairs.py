"""Weight profile, correct weight mass and co-activation against naive references in numpy."""

import numpy as np
import pytest
import torch
from naive_choices import LENGTHS, OUTCOME, SHAPE, chosen, table, tokens

from moe_tune.metrics.co_activation import CoActivation, co_activation
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.weight_profile import WeightProfile
from moe_tune.routing import RouterOutput

each_scope = pytest.mark.parametrize("scope", ["answer", "all"])
each_filling = pytest.mark.parametrize("spare", [False, True])


@pytest.mark.reference("WeightProfile")
@each_scope
@each_filling
def test_weight_profile(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables = table(WeightProfile, scope, trace)
    for layer, output in trace.outputs.items():
        weights, mass = [], []
        for token in tokens(trace, scope):
            held = sorted(chosen(output, token).values(), reverse=True)
            weights.append(held + [0.0] * (2 - len(held)))
            mass.append(sum(output.probs_TE[token, expert].item() for expert in chosen(output, token)))
        np.testing.assert_allclose(tables["sorted_weight_mean"][layer], np.mean(weights, axis=0), atol=1e-7)
        assert tables["topk_mass_mean"][layer] == pytest.approx(np.mean(mass), abs=1e-7)


def test_the_profile_of_renormalised_weights_sums_to_one(random_trace):
    tables = table(WeightProfile, "all", random_trace(LENGTHS, 5, renormalise=True))
    np.testing.assert_allclose(tables["sorted_weight_mean"].sum(1), 1, atol=1e-6)
    assert (tables["topk_mass_mean"] < 1).all()


def test_the_profile_does_not_depend_on_the_order_of_slots(random_trace):
    trace = random_trace(LENGTHS, 5)
    before = table(WeightProfile, "all", trace)
    for output in trace.outputs.values():
        output.experts_TK, output.weights_TK = output.experts_TK.flip(1), output.weights_TK.flip(1)
    trace.forget()
    np.testing.assert_array_equal(
        table(WeightProfile, "all", trace)["sorted_weight_mean"], before["sorted_weight_mean"]
    )


@pytest.mark.reference("CoActivation")
@each_scope
@each_filling
def test_co_activation(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    wanted = np.zeros((3, 8, 8), dtype=int)
    for layer, output in trace.outputs.items():
        for token in tokens(trace, scope):
            for one in chosen(output, token):
                for other in chosen(output, token):
                    wanted[layer, one, other] += 1
    tables = table(CoActivation, scope, trace)
    np.testing.assert_array_equal(tables["co_count"], wanted)
    count = table(ExpertActivation, scope, trace)["count"]
    np.testing.assert_array_equal(np.diagonal(tables["co_count"], axis1=1, axis2=2), count)
    if not spare:
        np.testing.assert_array_equal(tables["co_count"].sum(2), 2 * count)


def test_pairs_are_counted_exactly_under_autocast():
    """More than 256 tokens, where half precision no longer counts one by one."""
    experts_TK = torch.tensor([[1, 2]]).expand(1001, 2)
    wide = torch.zeros(1001, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        counts_EE = co_activation(RouterOutput(wide, wide, wide[:, :2], experts_TK, torch.ones(1001).bool(), 0))
    assert counts_EE[1].tolist() == [0, 1001, 1001, 0]


@pytest.mark.reference("ExpertAccuracy")
@each_scope
@each_filling
def test_correct_weight_mass(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    wanted = np.zeros((3, 8))
    for layer, output in trace.outputs.items():
        for token in tokens(trace, scope):
            for expert, weight in chosen(output, token).items():
                wanted[layer, expert] += weight * bool(OUTCOME.correct_B[trace.question_T[token]])
    came = table(ExpertAccuracy, scope, trace)["mass_correct"]
    np.testing.assert_allclose(came, wanted, rtol=1e-6)
    assert (came <= table(ExpertActivation, scope, trace)["weight_mass"] + 1e-9).all()


def test_layers_without_a_token_have_no_pair_and_no_mean(random_trace):
    trace = random_trace(LENGTHS, 5, layers=(2,))
    for kind, empty in ((WeightProfile, np.isnan), (CoActivation, np.logical_not)):
        for one in table(kind, "answer", trace).values():
            assert one.shape[0] == len(SHAPE.layers)
            assert empty(one[:2]).all()
            assert one[2].any()
