"""Weight profile and co-activation: what they sum to, and what they do not depend on."""

import numpy as np
import pytest
import torch
from naive_choices import LENGTHS, SHAPE, table

from moe_tune.metrics.co_activation import CoActivation, co_activation
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.weight_profile import WeightProfile
from moe_tune.routing import RouterOutput


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


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_tables_of_different_metrics_fit_together(scope, random_trace):
    trace = random_trace(LENGTHS, 5)
    pairs, count = (table(kind, scope, trace) for kind in (CoActivation, ExpertActivation))
    np.testing.assert_array_equal(np.diagonal(pairs["co_count"], axis1=1, axis2=2), count["count"])
    np.testing.assert_array_equal(pairs["co_count"].sum(2), 2 * count["count"])
    assert (table(ExpertAccuracy, scope, trace)["mass_correct"] <= count["weight_mass"] + 1e-9).all()


def test_pairs_are_counted_exactly_under_autocast():
    """More than 256 tokens, where half precision no longer counts one by one."""
    experts_TK = torch.tensor([[1, 2]]).expand(1001, 2)
    wide = torch.zeros(1001, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        counts_EE = co_activation(RouterOutput(wide, wide, wide[:, :2], experts_TK, torch.ones(1001).bool(), 0))
    assert counts_EE[1].tolist() == [0, 1001, 1001, 0]


def test_layers_without_a_token_have_no_pair_and_no_mean(random_trace):
    trace = random_trace(LENGTHS, 5, layers=(2,))
    for kind, empty in ((WeightProfile, np.isnan), (CoActivation, np.logical_not)):
        for one in table(kind, "answer", trace).values():
            assert one.shape[0] == len(SHAPE.layers)
            assert empty(one[:2]).all()
            assert one[2].any()
