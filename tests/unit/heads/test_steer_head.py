"""Steering: who is steered, by counts done by hand, and what it does to the decision."""

import pytest
import torch
from made_up import bound_to, layer_table

from moe_tune.base.errors import ConfigError
from moe_tune.heads.base import decide
from moe_tune.heads.steer import SteerHead, most_above_zero
from moe_tune.routing import LayerTable, SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
HIDDEN_TD = torch.zeros(30, 4)


def table_of(chosen_ES, correct_ES, asked_S, right_S):
    return LayerTable(
        *map(torch.tensor, (chosen_ES, correct_ES, asked_S, right_S)), torch.zeros(1, 4), torch.zeros(1), torch.ones(1)
    )


def bound(promoted=(), suppressed=(), rule=RULE, **options):
    head = bound_to(rule, SteerHead(**options))
    head.promoted_E[list(promoted)] = True
    head.suppressed_E[list(suppressed)] = True
    return head


@pytest.mark.parametrize("right_S", [[0, 0], [5, 5]])
def test_without_two_groups_nobody_is_steered(right_S):
    correct_ES = [[2, 2], [3, 3]] if right_S[0] else [[0, 0], [0, 0]]
    head = bound_to(SoftmaxRule(1, 2, False), SteerHead(promote=1, suppress=1))
    head.calibrate(table_of([[2, 2], [3, 3]], correct_ES, [5, 5], right_S))
    assert not head.promoted_E.any()
    assert not head.suppressed_E.any()


@pytest.mark.parametrize(
    ("values", "count", "wanted"),
    [
        ([0.1, 0.3, 0.2], 2, [1, 2]),
        ([0.1, -0.3, -0.2], 2, [0]),
        ([0.2, 0.2, 0.2], 2, [0, 1]),
        ([0.0, 0.0, 0.1], 3, [2]),
        ([0.5, 0.4, 0.3], 0, []),
    ],
)
def test_the_largest_above_zero_ties_by_index(values, count, wanted):
    assert most_above_zero(torch.tensor(values), count).nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize(("promote", "suppress"), [(0, 0), (1, 0), (0, 1), (2, 3)])
def test_calibration_picks_the_experts_that_differ_most(promote, suppress):
    table = layer_table()
    head = bound(promote=promote, suppress=suppress)
    head.calibrate(table)
    right, wrong = int(table.right_S.sum()), int(table.asked_S.sum() - table.right_S.sum())
    differences = [
        r / right - (n - r) / wrong for n, r in zip(table.chosen_E.tolist(), table.correct_E.tolist(), strict=True)
    ]
    ranked = sorted(range(8), key=lambda i: (-differences[i], i))
    assert set(head.promoted_E.nonzero().flatten().tolist()) == set(ranked[:promote])
    assert set(head.suppressed_E.nonzero().flatten().tolist()) == set(ranked[8 - suppress :])
    assert head.traits.needs_calibration == bool(promote or suppress)


def test_in_half_precision_a_promoted_expert_stays_above_the_best():
    logits_TE = torch.full((30, 8), 60.0).to(torch.bfloat16)
    came = decide(bound((6,)), RULE, HIDDEN_TD, logits_TE, stock_ties=True)
    assert (came.experts_TK[:, 0] == 6).all()


@pytest.mark.parametrize(("key", "value"), [("promote", 3), ("suppress", 7)])
def test_more_experts_than_the_layer_allows_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"head\.{key}"):
        bound(**{key: value})
