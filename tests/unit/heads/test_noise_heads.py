"""Jitter and noisy top-k: noise in training only, of the promised size, and drawn again by gradient checkpointing."""

import math

import pytest
import torch
from torch.nn import functional

from moe_tune.heads.base import BaseGate
from moe_tune.heads.jitter import JitterHead
from moe_tune.heads.noisy_top_k import NoisyTopKHead
from moe_tune.routing import SoftmaxRule

DRAW = torch.Generator().manual_seed(3)
BASE_ED, HIDDEN_TD = torch.randn(8, 16, generator=DRAW), torch.randn(500, 16, generator=DRAW)
LOGITS_TE = HIDDEN_TD @ BASE_ED.T


def bound(kind, **options):
    return kind(**options).bound_to(BaseGate(BASE_ED, SoftmaxRule(2, 8, False), 0))


@pytest.mark.reference("JitterHead")
def test_jitter_multiplies_what_the_router_reads():
    head = bound(JitterHead, eps=0.2)
    torch.manual_seed(11)
    came = head.score(HIDDEN_TD, LOGITS_TE)
    torch.manual_seed(11)
    factor_TD = 1 + torch.empty_like(HIDDEN_TD).uniform_(-0.2, 0.2).double()
    assert 0.8 <= factor_TD.min() < 0.81
    assert 1.19 < factor_TD.max() <= 1.2
    wanted = (HIDDEN_TD.double() * factor_TD) @ BASE_ED.double().T
    torch.testing.assert_close(came.double(), wanted, atol=1e-5, rtol=1e-5)
    still = bound(JitterHead, eps=0.0).score(HIDDEN_TD, LOGITS_TE)
    assert torch.equal(still, LOGITS_TE)


@pytest.mark.reference("NoisyTopKHead")
def test_the_noise_of_noisy_top_k_starts_small_and_has_the_learned_size():
    head = bound(NoisyTopKHead)
    noise = (head.score(HIDDEN_TD, LOGITS_TE) - LOGITS_TE).detach()
    assert float(noise.std()) == pytest.approx(math.log1p(math.exp(-5)), rel=0.1)
    with torch.no_grad():
        head.noise_weight_ED.normal_()
        head.noise_bias_E.normal_()
    torch.manual_seed(13)
    came = head.score(HIDDEN_TD, LOGITS_TE)
    torch.manual_seed(13)
    drawn_TE = torch.randn_like(LOGITS_TE)
    size_TE = functional.softplus(HIDDEN_TD.double() @ head.noise_weight_ED.double().T + head.noise_bias_E.double())
    torch.testing.assert_close(came.double(), LOGITS_TE.double() + drawn_TE * size_TE, atol=1e-4, rtol=1e-5)
    came.square().sum().backward()
    above_TE = 2 * came.detach().double() * drawn_TE * (1 - torch.exp(-size_TE.detach()))  # softplus' = 1 - e^-softplus
    torch.testing.assert_close(head.noise_bias_E.grad.double(), above_TE.sum(0), atol=1e-2, rtol=1e-3)
    wanted_ED = above_TE.T @ HIDDEN_TD.double()
    torch.testing.assert_close(head.noise_weight_ED.grad.double(), wanted_ED, atol=1e-2, rtol=1e-3)
