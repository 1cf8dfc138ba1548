"""The accuracy bias against slow references in plain Python, and the laws of its three modes."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import layer_table

from moe_tune.heads.accuracy_bias import AccuracyBiasHead, accuracy_bias, expected_correct
from moe_tune.heads.base import BaseGate
from moe_tune.routing import SoftmaxRule
from moe_tune.stats.shrinkage import moment_weight

counts = st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), min_size=2, max_size=12).map(
    lambda rows: ([n for n, _ in rows], [round(n * share) for n, share in rows])
)


def slow_shrinkage(n, r):
    """Return M of the beta-binomial by moments, or None when the spread between experts is no more than chance."""
    used = [(n_i, r_i) for n_i, r_i in zip(n, r, strict=True) if n_i > 0]
    total = sum(n_i for n_i, _ in used)
    p = sum(r_i for _, r_i in used) / total
    below = total - sum(n_i**2 for n_i, _ in used) / total - (len(used) - 1)
    if len(used) < 2 or below <= 0:
        return None
    s2 = (sum(n_i * (r_i / n_i - p) ** 2 for n_i, r_i in used) - (len(used) - 1) * p * (1 - p)) / below
    return None if s2 <= 0 else min(max(p * (1 - p) / s2 - 1, 1.0), 1e6)


def slow_bias(n, r, beta, b_max, n_min, k):
    """Return b_i = clip(beta (A_i - A) / sd(A), b_max) over the experts with enough questions."""
    mean = sum(r) / sum(n)
    shrunk = [(r_i + k * mean) / (n_i + k) for n_i, r_i in zip(n, r, strict=True)]
    enough = [n_i >= n_min for n_i in n]
    kept = [a for a, keep in zip(shrunk, enough, strict=True) if keep]
    if not kept or statistics.pstdev(kept) < 1e-8:
        return [0.0] * len(n)
    sd = statistics.pstdev(kept)
    return [
        max(-b_max, min(b_max, beta * (a - mean) / sd)) if keep else 0.0 for a, keep in zip(shrunk, enough, strict=True)
    ]


@pytest.mark.reference("AccuracyBiasHead")
@given(table=counts, k=st.floats(0.5, 200), beta=st.floats(-2, 2), b_max=st.floats(0.1, 3), n_min=st.integers(1, 60))
def test_the_bias_equals_the_slow_reference(table, k, beta, b_max, n_min):
    n, r = table
    came = accuracy_bias(torch.tensor(n), torch.tensor(r), beta, b_max, n_min, k)
    wanted = slow_bias(n, r, beta, b_max, n_min, k) if sum(n) else [0.0] * len(n)
    assert came.tolist() == pytest.approx(wanted, abs=1e-5)


@given(table=counts)
def test_the_fitted_shrinkage_equals_the_slow_reference(table):
    n, r = table
    if sum(n):
        came, wanted = moment_weight(np.array(r), np.array(n)), slow_shrinkage(n, r)
        assert (came is None) == (wanted is None)
        assert came is None or came == pytest.approx(wanted, rel=1e-6)


def test_experts_that_are_alike_get_no_bias():
    alike = torch.full((8,), 100), torch.full((8,), 54)
    assert moment_weight(alike[1].numpy(), alike[0].numpy()) is None
    for shrinkage in (None, 0.0, 50.0):
        assert not accuracy_bias(*alike, 0.25, 1.0, 30, shrinkage).any()
    assert not accuracy_bias(torch.zeros(8), torch.zeros(8), 0.25, 1.0, 0, None).any()


def slow_adjusted_bias(n, r, beta, b_max, n_min, k):
    """Return the bias with A_i = A + n_i/(n_i+k) sum_s (n_is/n_i)(acc_is - acc_s); n and r by expert and subject."""
    experts, subjects = range(len(n)), range(len(n[0]))
    mean = sum(map(sum, r)) / sum(map(sum, n))
    accuracy = []
    for i in experts:
        n_i, inner = sum(n[i]), 0.0
        for s in subjects:
            if n[i][s]:
                acc_s = sum(r[j][s] for j in experts) / sum(n[j][s] for j in experts)
                inner += n[i][s] / n_i * (r[i][s] / n[i][s] - acc_s)
        accuracy.append(mean + (n_i / (n_i + k) * inner if n_i else 0.0))
    kept = [a for i, a in enumerate(accuracy) if sum(n[i]) >= n_min]
    if not kept or statistics.pstdev(kept) < 1e-8:
        return [0.0] * len(n)
    sd = statistics.pstdev(kept)
    return [
        max(-b_max, min(b_max, beta * (a - mean) / sd)) if sum(n[i]) >= n_min else 0.0 for i, a in enumerate(accuracy)
    ]


@given(seed=st.integers(0, 999), k=st.floats(0.5, 200), beta=st.floats(-2, 2), n_min=st.integers(1, 60))
def test_the_adjusted_bias_equals_the_slow_reference(seed, k, beta, n_min):
    draw = np.random.default_rng(seed)
    n = draw.integers(0, 60, (6, 4)) * draw.integers(0, 2, (6, 4))
    r = draw.binomial(n, draw.uniform(0, 1, (6, 4)))
    if n.sum():
        chosen_ES, correct_ES = torch.tensor(n), torch.tensor(r)
        expected_E = expected_correct(chosen_ES, correct_ES)
        came = accuracy_bias(chosen_ES.sum(1), correct_ES.sum(1), beta, 1.0, n_min, k, expected_E)
        assert came.tolist() == pytest.approx(slow_adjusted_bias(n.tolist(), r.tolist(), beta, 1.0, n_min, k), abs=1e-5)


def test_the_head_adjusts_where_it_is_told_to():
    table, gate = layer_table(16), BaseGate(torch.zeros(16, 4), SoftmaxRule(4, 16, False), 0)
    for adjust in ("none", "subject"):
        head = AccuracyBiasHead(adjust=adjust, shrinkage=20.0).bound_to(gate)
        head.calibrate(table)
        if adjust == "subject":
            wanted = slow_adjusted_bias(table.chosen_ES.tolist(), table.correct_ES.tolist(), 0.25, 1.0, 30, 20.0)
        else:
            wanted = slow_bias(table.chosen_E.tolist(), table.correct_E.tolist(), 0.25, 1.0, 30, 20.0)
        assert any(wanted)
        assert head.bias_E.tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_fresh_table_is_asked_for_only_every_epoch():
    assert AccuracyBiasHead(refresh="epoch").traits.refreshes
    assert not AccuracyBiasHead().traits.refreshes


def test_an_expert_nobody_chose_gets_no_bias_even_without_shrinkage():
    bias = accuracy_bias(torch.tensor([100, 100, 0]), torch.tensor([90, 10, 0]), 0.25, 1.0, 0, 0.0)
    assert bias.isfinite().all()
    assert bias[2] == 0
