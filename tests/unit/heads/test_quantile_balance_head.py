"""Quantile balancing: the prices of a slow reference, averaged over micro-batches and ranks, even out the load."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import bound_to, output_of

from moe_tune.base.errors import ConfigError
from moe_tune.heads import quantile_balance
from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.quantile_balance import QuantileBalanceHead, quantile_prices
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
SKEWED_TE = torch.randn(200, 8, generator=torch.Generator().manual_seed(6)) + torch.linspace(-1, 1, 8)


def bound(**options):
    return bound_to(RULE, QuantileBalanceHead(**options))


def decided(head):
    return output_of(decide(head, RULE, torch.zeros(len(SKEWED_TE), 4), SKEWED_TE))


def slow_prices(s, beta, k):
    tokens, experts = len(s), len(s[0])
    alpha = [sorted((s_i - b for s_i, b in zip(row, beta, strict=True)), reverse=True)[k] for row in s]
    rank = math.floor(tokens * k / experts)
    return [sorted((s[t][i] - alpha[t] for t in range(tokens)), reverse=True)[rank] for i in range(experts)]


@pytest.mark.reference("QuantileBalanceHead")
@given(
    tokens=st.integers(1, 30),
    experts=st.integers(2, 9),
    seed=st.integers(0, 99),
    k=st.integers(1, 8),
    wide=st.floats(0, 1),
)
def test_prices_equal_the_slow_reference(tokens, experts, seed, k, wide):
    k = min(k, experts - 1)
    draw = torch.Generator().manual_seed(seed)
    scores_TE = torch.softmax(torch.randn(tokens, experts, generator=draw, dtype=torch.float64), -1)
    beta_E = wide * torch.randn(experts, generator=draw, dtype=torch.float64)
    wanted = slow_prices(scores_TE.tolist(), beta_E.tolist(), k)
    assert quantile_prices(scores_TE, beta_E, k).tolist() == pytest.approx(wanted)


def test_micro_batches_and_ranks_are_averaged(monkeypatch):
    monkeypatch.setattr(quantile_balance, "summed_over_ranks", lambda value: 3 * value)
    head = bound(ema=0.75)
    start_E = head.beta_E.normal_().clone()
    output = decided(IdentityHead())
    parts = [output.rows(slice(0, 60)), output.rows(slice(60, 200)), output.rows(slice(0, 0))]
    for part in parts:
        head.observe(part)
    head.after_step()
    cand = [slow_prices(part.probs_TE.tolist(), start_E.tolist(), 2) for part in parts[:2]]
    v = [0.75 * b + 0.25 * (x + y) / 2 for b, x, y in zip(start_E.tolist(), *cand, strict=True)]
    assert head.beta_E.tolist() == pytest.approx([one - sum(v) / 8 for one in v], abs=1e-6)
    after_E = head.beta_E.clone()
    head.after_step()
    assert torch.equal(head.beta_E, after_E), "a step that saw nothing changes nothing"


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_skewed_router_is_evened_out(ema):
    head, loads = bound(ema=ema), []
    for _ in range(60):
        output = decided(head)
        loads.append(output.counts_E().max() / 50)
        head.observe(output)
        head.after_step()
    assert loads[0] > 1.6
    assert loads[-1] < 1.1


def test_a_router_that_chooses_every_expert_is_refused():
    with pytest.raises(ConfigError, match="fewer than 8"):
        bound_to(SoftmaxRule(8, 8, False), QuantileBalanceHead())
