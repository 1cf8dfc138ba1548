"""The routing contract: masks, traces, top-k ties and counts."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.routing import Decision, RouterOutput, RoutingTrace, SoftmaxRule, entropy, normalised, stable_top_k

masks = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=5)


@given(rows=masks)
def test_the_answer_position_is_the_last_real_token_on_either_side_of_padding(rows):
    mask_BS = torch.zeros(len(rows), 6, dtype=torch.long)
    for index, (length, left) in enumerate(rows):
        mask_BS[index, 6 - length :] = 1 if left else 0
        if not left:
            mask_BS[index, :length] = 1
    trace = RoutingTrace.of_batch(mask_BS)
    assert int(trace.answer_T.sum()) == sum(length > 0 for length, _ in rows)
    assert not (trace.answer_T & ~trace.real_T).any()
    assert trace.question_T.tolist() == [index for index in range(len(rows)) for _ in range(6)]
    for index, (length, left) in enumerate(rows):
        if length:
            assert trace.answer_T.view(len(rows), 6)[index].nonzero().item() == (5 if left else length - 1)


def test_a_closed_trace_records_nothing(random_trace):
    trace = random_trace((2, 1), 3)
    output = trace.outputs[0]
    trace.is_open = False
    trace.record(
        RouterOutput(output.logits_TE, output.probs_TE, output.weights_TK, output.experts_TK, output.mask_T, 9)
    )
    assert sorted(trace.outputs) == [0, 1, 2]


def test_a_scope_gives_its_tokens_layer_by_layer(random_trace):
    trace = random_trace((3, 1, 2), 4, layers=(5, 2))
    for scope, tokens in (("answer", 3), ("all", 6)):
        outputs = list(trace.at(scope))
        assert [output.layer for output in outputs] == [2, 5]
        for output in outputs:
            assert output.mask_T.all()
            assert len(output.mask_T) == len(output.logits_TE) == len(output.experts_TK) == tokens
            mask_T = trace.mask(scope)
            assert torch.equal(output.weights_TK, trace.outputs[output.layer].weights_TK[mask_T])
            assert output.used_TK is None


def test_rows_carry_every_recorded_extra():
    keep_T = torch.tensor([True, False, True])
    wide = torch.arange(12.0).view(3, 4)
    output = RouterOutput(wide, wide, wide[:, :2], wide[:, :2].long() % 4, keep_T, 1, wide[:, :2] > 3, wide, wide)
    rows = output.rows(keep_T)
    assert rows.layer == 1
    for value in (rows.base_logits_TE, rows.hidden_TD, rows.logits_TE):
        assert torch.equal(value, wide[keep_T])
    assert rows.used_TK.tolist() == [[False, False], [True, True]]


@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=8), k=st.integers(1, 6)
)
def test_top_k_breaks_ties_towards_the_lower_index(values, k):
    came = stable_top_k(torch.tensor(values, dtype=torch.float32), k).tolist()
    assert came == [sorted(range(6), key=lambda i, row=row: (-row[i], i))[:k] for row in values]


@pytest.mark.parametrize("spare", [False, True])
def test_counts_equal_a_naive_loop(random_trace, spare):
    for output in random_trace((4, 1, 3), 5, spare=spare).outputs.values():
        counts = [0] * 8
        for token, experts in enumerate(output.experts_TK.tolist()):
            for slot, expert in enumerate(experts):
                if output.mask_T[token] and (output.used_TK is None or output.used_TK[token, slot]):
                    counts[expert] += 1
        assert output.counts_E().tolist() == counts
        assert sum(counts) == 16 or spare


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 30))
def test_entropy_agrees_with_scipy(seed, scale):
    logits = scale * np.random.default_rng(seed).normal(size=(4, 64))
    probs = torch.softmax(torch.tensor(logits), -1)
    np.testing.assert_allclose(entropy(probs), scipy.stats.entropy(probs.numpy(), axis=-1), atol=1e-10)


def test_entropy_at_its_ends():
    assert entropy(torch.full((64,), 1 / 64)).item() == pytest.approx(np.log(64))
    one_hot = torch.eye(64)[0].requires_grad_()
    entropy(one_hot).backward()
    assert entropy(one_hot).item() == 0
    assert one_hot.grad.isfinite().all()


def test_normalised_weights_sum_to_one_and_nothing_stays_nothing():
    torch.testing.assert_close(normalised(torch.rand(9, 8)).sum(-1), torch.ones(9))
    assert not normalised(torch.zeros(2, 3)).any()


def routed(renormalise, logits_TE):
    rule = SoftmaxRule(3, 8, renormalise)
    return Decision(rule, logits_TE, rule.probabilities(logits_TE), stable_top_k(logits_TE, 3))


def test_the_rule_is_the_familys():
    logits_TE = torch.randn(7, 8)
    probs_TE = torch.softmax(logits_TE, -1)
    plain, unit = routed(False, logits_TE), routed(True, logits_TE)
    assert torch.equal(plain.weights_TK, probs_TE.sort(-1, descending=True).values[:, :3])
    torch.testing.assert_close(unit.weights_TK, plain.weights_TK / plain.weights_TK.sum(-1, keepdim=True))
    assert SoftmaxRule(3, 8, False).probabilities(logits_TE.bfloat16()).dtype == torch.float32


def test_scales_multiply_whatever_their_order():
    decision, one_TK, other_T1 = routed(False, torch.randn(7, 8)), torch.rand(7, 3), torch.rand(7, 1)
    both = decision.scaled(one_TK).scaled(other_T1)
    torch.testing.assert_close(both.weights_TK, decision.weights_TK * one_TK * other_T1)
    torch.testing.assert_close(both.weights_TK, decision.scaled(other_T1).scaled(one_TK).weights_TK)
