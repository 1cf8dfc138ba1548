"""The margin of the selection: against sorted logits, with many ties, and with slots not in use."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.gate_margin import NEAR, GateMargin, gate_margin
from moe_tune.routing import RouterOutput, RoutingTrace, stable_top_k

# Few values, as a grid of bfloat16 has them, so that ties are common; around 1 its steps are 2^-8 and 2^-7.
grids = st.sampled_from([torch.float32, torch.bfloat16]).flatmap(
    lambda dtype: st.tuples(
        st.just(dtype),
        st.integers(1, 5),
        st.lists(
            st.lists(st.integers(-6, 6).map(lambda step: 1 + step * 2.0**-8), min_size=6, max_size=6),
            min_size=1,
            max_size=6,
        ),
    )
)


@given(grids)
def test_ties_equal_those_of_the_sorted_logits(case):
    dtype, top_k, rows = case
    logits_TE = torch.tensor(rows).to(dtype)
    experts_TK = stable_top_k(logits_TE.float(), top_k)
    probs_TE = torch.softmax(logits_TE.float(), -1)
    output = RouterOutput(
        logits_TE, probs_TE, probs_TE.gather(1, experts_TK), experts_TK, torch.ones(len(rows)).bool(), 0
    )
    margin_T, tie_T, near_T = gate_margin(output)
    ranked = -np.sort(-logits_TE.double().numpy(), axis=1)
    last, following = ranked[:, top_k - 1], ranked[:, top_k]
    np.testing.assert_array_equal(margin_T.numpy(), last - following)
    np.testing.assert_array_equal(tie_T.numpy(), last == following)
    np.testing.assert_array_equal(near_T.numpy(), (last == following) | (last - following < NEAR * np.abs(last)))


def test_equal_logits_are_a_tie_at_any_height_and_tokens_without_a_boundary_do_not_count():
    logits_TE = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    experts_TK = torch.tensor([[0, 1], [0, 1], [0, 0], [0, 1]])
    used_TK = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    output = RouterOutput(
        logits_TE, logits_TE.softmax(-1), torch.zeros(4, 2), experts_TK, torch.ones(4).bool(), 0, used_TK
    )
    margin_T, tie_T, near_T = gate_margin(output)
    assert margin_T.isfinite().tolist() == [True, True, False, True]
    assert tie_T.tolist() == near_T.tolist() == [True, True, False, False]
    every = RouterOutput(logits_TE, logits_TE, logits_TE, torch.arange(3).expand(4, 3), torch.ones(4).bool(), 0)
    assert not gate_margin(every)[0].isfinite().any()
    metric = GateMargin(MetricShape((0,), 3, 3, 1, 1), "all")
    trace = RoutingTrace.of_batch(torch.ones(1, 4))
    trace.record(every)
    metric.update(trace, Outcome(torch.ones(1).bool(), torch.zeros(1).long(), torch.zeros(1).long()))
    assert all(table.isnan().all() for table in metric.compute().values()), "no boundary was seen, not one of 0"


def test_a_selection_against_the_logits_has_a_negative_margin():
    logits_TE = torch.tensor([[3.0, 1.0, 2.0]])
    output = RouterOutput(logits_TE, logits_TE, torch.ones(1, 2), torch.tensor([[0, 1]]), torch.ones(1).bool(), 0)
    assert gate_margin(output)[0].tolist() == [-1.0]
    assert not gate_margin(output)[2].any()
