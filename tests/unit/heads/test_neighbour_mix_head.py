"""The mix with neighbours, against sums written out, and what leaves the pretrained router as it is."""

from dataclasses import replace

import pytest
import torch
from made_up import layer_table
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.neighbour_mix import NeighbourMixHead
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
BASE_ED = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
HIDDEN_TD = torch.randn(20, 16, generator=torch.Generator().manual_seed(2))
LOGITS_TE = functional.linear(HIDDEN_TD, BASE_ED)
TABLE = layer_table(questions=60)


def calibrated(table=TABLE, **options):
    head = NeighbourMixHead(**options).bound_to(BaseGate(BASE_ED, RULE, 0))
    head.calibrate(table)
    return head


def decided(head):
    return decide(head, RULE, HIDDEN_TD, LOGITS_TE)


def by_hand(alpha, neighbours, table=TABLE):
    """Return the mixed probabilities of each token, one after the other."""
    centre_D, right_Q = table.hidden_QD.mean(0), table.correct_Q
    known_RD, theirs_RE = table.hidden_QD[right_Q] - centre_D, table.logits_QE[right_Q].softmax(-1)

    def nearest(away_D):
        squared_R = 2 * (1 - functional.cosine_similarity(away_D[None], known_RD))
        return sorted((float(one), row) for row, one in enumerate(squared_R) if one > 1e-6)[:neighbours]

    scale = torch.tensor([nearest(one)[-1][0] ** 0.5 for one in known_RD]).median()
    mixed = []
    for hidden_D, own_E in zip(HIDDEN_TD, LOGITS_TE.softmax(-1), strict=True):
        near = nearest(hidden_D - centre_D)
        close = torch.tensor([-one / (2 * float(scale) ** 2) for one, _ in near]).exp()
        theirs_E = sum(weight * theirs_RE[row] for weight, (_, row) in zip(close, near, strict=True)) / close.sum()
        mixed.append(alpha * own_E + (1 - alpha) * theirs_E)
    return torch.stack(mixed)


@pytest.mark.reference("NeighbourMixHead")
@pytest.mark.parametrize(("alpha", "neighbours"), [(0.0, 3), (0.5, 3), (0.3, 1), (0.0, 7)])
def test_it_is_the_mix_written_out(alpha, neighbours):
    came, wanted_TE = decided(calibrated(alpha=alpha, neighbours=neighbours)), by_hand(alpha, neighbours)
    torch.testing.assert_close(came.probs_TE, wanted_TE, atol=1e-5, rtol=1e-4)
    assert torch.equal(came.experts_TK, wanted_TE.topk(2).indices)
    torch.testing.assert_close(came.weights_TK, wanted_TE.topk(2).values, atol=1e-5, rtol=1e-4)


def test_the_core_experts_are_mixed_at_their_old_mass_and_the_others_stay():
    own_TE, all_TE, core_TE = LOGITS_TE.softmax(-1), by_hand(0.5, 3), decided(calibrated(core=3)).probs_TE
    for own_E, all_E, core_E in zip(own_TE, all_TE, core_TE, strict=True):
        order_E = own_E.argsort(descending=True)
        torch.testing.assert_close(core_E[order_E[3:]], own_E[order_E[3:]], atol=1e-5, rtol=1e-4)
        wanted_E = all_E[order_E[:3]] / all_E[order_E[:3]].sum() * own_E[order_E[:3]].sum()
        torch.testing.assert_close(core_E[order_E[:3]], wanted_E, atol=1e-5, rtol=1e-4)


def test_a_question_is_no_neighbour_of_itself():
    """Its own routing, changed beyond recognition, leaves it where it was; others' do not."""
    table = replace(TABLE, hidden_QD=torch.cat([HIDDEN_TD[:1], TABLE.hidden_QD[1:]]), correct_Q=torch.ones(60).bool())
    strange_QE = table.logits_QE.clone()
    strange_QE[0] = 50 * torch.randn(8)
    before, after = (
        calibrated(one).score(HIDDEN_TD, LOGITS_TE) for one in (table, replace(table, logits_QE=strange_QE))
    )
    assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_leaves_the_pretrained_router_to_the_last_bit(dtype):
    none = replace(TABLE, correct_Q=torch.zeros(60).bool())
    fresh = NeighbourMixHead().bound_to(BaseGate(BASE_ED, RULE, 0))
    for head in (fresh, calibrated(none), calibrated(alpha=1.0)):
        came = head.score(HIDDEN_TD, LOGITS_TE.to(dtype))
        assert came.dtype == dtype
        assert torch.equal(came, LOGITS_TE.to(dtype))


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.1}, {"neighbours": 0}, {"core": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError, match=rf"head\.{next(iter(options))}"):
        NeighbourMixHead(**options)
