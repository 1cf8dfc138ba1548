"""Sinkhorn: the plan against a slow reference, even loads in training, and the pretrained choice in evaluation."""

import math

import pytest
import torch
from made_up import bound_to

from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.sinkhorn import SinkhornHead, sinkhorn_columns
from moe_tune.routing import SoftmaxRule

RULE = SoftmaxRule(2, 8, False)
SKEWED_TE = torch.randn(200, 8, generator=torch.Generator().manual_seed(6)) + torch.linspace(-2, 2, 8)


def bound():
    return bound_to(RULE, SinkhornHead())


@pytest.mark.reference("SinkhornHead")
def test_the_plan_equals_the_slow_reference():
    z = SKEWED_TE[:20].double().tolist()
    d0, d1 = [1.0] * 20, [1.0] * 8
    for _ in range(2000):
        d0 = [1 / 20 / sum(math.exp(z[t][i]) * d1[i] for i in range(8)) for t in range(20)]
        d1 = [1 / 8 / sum(math.exp(z[t][i]) * d0[t] for t in range(20)) for i in range(8)]
    came = sinkhorn_columns(SKEWED_TE[:20])
    wanted = torch.tensor(d1).log()
    torch.testing.assert_close(came - came.mean(), wanted - wanted.mean(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("tokens", [2, 5, 200])
def test_rows_and_columns_get_their_shares(tokens):
    scores_TE = SKEWED_TE[:tokens]
    columns_E = sinkhorn_columns(scores_TE)
    rows_T = -math.log(tokens) - torch.logsumexp(scores_TE + columns_E, 1)
    plan_TE = (scores_TE + columns_E + rows_T[:, None]).exp()
    torch.testing.assert_close(plan_TE.sum(1), torch.full((tokens,), 1 / tokens), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(plan_TE.sum(0), torch.full((8,), 1 / 8), atol=1e-6, rtol=2e-3)


def test_large_logits_do_not_overflow():
    assert sinkhorn_columns(300 * SKEWED_TE).isfinite().all()


def test_training_evens_out_the_choice_and_keeps_the_probabilities():
    head, hidden_TD = bound(), torch.zeros(200, 4)
    base = decide(IdentityHead(), RULE, hidden_TD, SKEWED_TE)
    trained, evaluated = (decide(head.train(mode), RULE, hidden_TD, SKEWED_TE) for mode in (True, False))
    assert torch.equal(evaluated.experts_TK, base.experts_TK)
    assert torch.equal(trained.probs_TE, base.probs_TE)
    assert torch.equal(trained.weights_TK, base.probs_TE.gather(-1, trained.experts_TK))
    assert base.experts_TK.flatten().bincount(minlength=8).max() > 100
    assert trained.experts_TK.flatten().bincount(minlength=8).max() < 65


def test_the_choice_has_no_gradient_of_its_own():
    logits_TE = SKEWED_TE.clone().requires_grad_()
    assert not sinkhorn_columns(logits_TE).requires_grad
    came = decide(bound(), RULE, torch.zeros(200, 4), logits_TE)
    probs_TE = torch.softmax(logits_TE, -1)
    wanted = torch.autograd.grad(probs_TE.gather(-1, came.experts_TK).square().sum(), logits_TE)[0]
    torch.testing.assert_close(torch.autograd.grad(came.weights_TK.square().sum(), logits_TE)[0], wanted)


@pytest.mark.parametrize("tokens", [0, 1])
def test_too_few_tokens_are_left_as_they_are(tokens):
    came, base = (decide(head, RULE, torch.zeros(tokens, 4), SKEWED_TE[:tokens]) for head in (bound(), IdentityHead()))
    assert torch.equal(came.experts_TK, base.experts_TK)
