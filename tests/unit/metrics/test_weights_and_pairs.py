"""Weight profile and co-activation: what they sum to, and what they do not depend on."""

import numpy as np
import torch
from naive_choices import LENGTHS, SHAPE, table

from moe_tune.metrics.co_activation import CoActivation, co_activation
from moe_tune.metrics.weight_profile import WeightProfile
from moe_tune.routing import RouterOutput


def test_the_profile_does_not_depend_on_the_order_of_slots(random_trace):
    trace = random_trace(LENGTHS, 5)
    before = table(WeightProfile, "all", trace)
    for output in trace.outputs.values():
        output.experts_TK, output.weights_TK = output.experts_TK.flip(1), output.weights_TK.flip(1)
    trace.forget()
    np.testing.assert_array_equal(
        table(WeightProfile, "all", trace)["sorted_weight_mean"], before["sorted_weight_mean"]
    )


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
