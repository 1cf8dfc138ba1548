"""Overlap with and divergence from the pretrained router, against float64 references."""

import itertools

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import bound_to, output_of
from naive_choices import LENGTHS, chosen, table, tokens
from tolerances import rounding_of

from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.metrics.base_drift import BaseDrift, base_divergence, base_overlap
from moe_tune.routing import RouterOutput, SoftmaxRule, stable_top_k


def routed(logits_TE, base_TE, experts_TK, used_TK=None):
    rule = SoftmaxRule(experts_TK.shape[1], logits_TE.shape[1], False)
    probs_TE = rule.probabilities(logits_TE)
    every_T = torch.ones(len(logits_TE), dtype=torch.bool)
    weights_TK = rule.weights(probs_TE, experts_TK, used_TK)
    return RouterOutput(logits_TE, probs_TE, weights_TK, experts_TK, every_T, 0, used_TK, base_TE)


@pytest.mark.reference("BaseDrift")
@pytest.mark.parametrize("scope", ["answer", "all"])
@pytest.mark.parametrize("spare", [False, True])
def test_base_drift(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables = table(BaseDrift, scope, trace)
    for layer, output in trace.outputs.items():
        shared = total = 0
        divergences, logs = [], []
        for token in tokens(trace, scope):
            base = output.base_logits_TE[token].double().numpy()
            best = set(np.argsort(-base)[:2])
            shared += len(best & set(chosen(output, token)))
            total += len(chosen(output, token))
            log_p, log_base = (
                scipy.special.log_softmax(one) for one in (output.logits_TE[token].detach().double().numpy(), base)
            )
            divergences.append((np.exp(log_p) * (log_p - log_base)).sum())
            logs += [log_p, log_base]
        assert tables["base_overlap"][layer] == shared / total
        assert tables["base_kl"][layer] == pytest.approx(np.mean(divergences), abs=rounding_of(*logs))


@given(
    rows=st.lists(
        st.tuples(*(st.lists(st.integers(-2, 2), min_size=6, max_size=6) for _ in range(2)), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    k=st.integers(1, 5),
)
def test_overlap_is_the_largest_with_any_choice_the_pretrained_router_could_make(rows, k):
    logits_TE, base_TE = (torch.tensor([row[side] for row in rows]).float() for side in (0, 1))
    experts_TK = stable_top_k(logits_TE, k)
    used_TK = torch.ones_like(experts_TK, dtype=torch.bool)
    used_TK[:, -1] = torch.tensor([row[2] for row in rows])
    shared_T, chosen_T = base_overlap(routed(logits_TE, base_TE, experts_TK, used_TK), k)
    for token, experts in enumerate(experts_TK.tolist()):
        mine = set(experts if used_TK[token, -1] else experts[:-1])
        base = base_TE[token].tolist()
        every = (set(choice) for choice in itertools.combinations(range(6), k))
        possible = [one for one in every if min(base[i] for i in one) >= max(base[i] for i in {*range(6)} - one)]
        assert shared_T[token] == max(len(mine & one) for one in possible)
        assert chosen_T[token] == len(mine)


def test_the_pretrained_router_itself_has_drifted_by_exactly_nothing():
    logits_TE = (4 * torch.randn(50, 16)).bfloat16()
    output = routed(logits_TE, logits_TE, stable_top_k(logits_TE.float(), 4))
    shared_T, chosen_T = base_overlap(output, 4)
    assert torch.equal(shared_T, chosen_T)
    assert not base_divergence(output, SoftmaxRule(4, 16, False)).any()


@pytest.mark.parametrize("stock_ties", [False, True])
def test_ties_do_not_count_as_drift_however_they_fall(stock_ties):
    """In bfloat16 a token in twenty ties at the boundary, and torch.topk breaks ties in no order of its own."""
    rule, logits_TE = SoftmaxRule(8, 64, False), torch.randn(2000, 64).bfloat16()
    made = decide(bound_to(rule, IdentityHead()), rule, torch.zeros(2000, 4), logits_TE, stock_ties=stock_ties)
    output = output_of(made, base_logits_TE=logits_TE)
    ranked_TE = logits_TE.float().sort(-1, descending=True).values
    assert (ranked_TE[:, 7] == ranked_TE[:, 8]).sum() > 40, "otherwise nothing ties"
    shared_T, chosen_T = base_overlap(output, 8)
    assert torch.equal(shared_T, chosen_T)


@pytest.mark.parametrize("step", [1e-1, 1e-3, 1e-5])
def test_small_divergences_are_not_drowned_in_rounding(step):
    """A gap of size h has a divergence of the order h^2, far below what float32 holds beside ln p."""
    base_TE = 2 * torch.randn(64, 64, dtype=torch.float64)
    logits_TE = base_TE + step * torch.randn(64, 64, dtype=torch.float64)
    log_p, log_base = (scipy.special.log_softmax(one.numpy(), axis=-1) for one in (logits_TE, base_TE))
    wanted = (np.exp(log_p) * (log_p - log_base)).sum(-1).mean()
    output = routed(logits_TE.float(), base_TE.float(), stable_top_k(logits_TE, 8))
    came = float(base_divergence(output, SoftmaxRule(8, 64, False)).double().mean())
    assert came == pytest.approx(wanted, rel=1e-3, abs=1e-7 * step)


def test_a_gate_far_away_gives_a_finite_divergence():
    logits_TE, base_TE = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 200.0, 0.0]])
    output = routed(logits_TE, base_TE, torch.tensor([[0]]))
    value = float(base_divergence(output, SoftmaxRule(1, 3, False)))
    assert 80 < value < 200, "the pretrained probability is floored at the smallest float32"
