"""Experts in blocks mix as the stock experts do, whatever the rows per expert."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.models.blocked_experts import BLOCK, blocked_experts_forward, serves


def layer(family, build_model, dtype=torch.float32):
    model = build_model(family, dtype=dtype, hidden_size=32)
    return next(iter(family.moe_layers(model).values())).get_submodule(family.experts_path)


@pytest.mark.parametrize("tokens", [1, 5, BLOCK, 3 * BLOCK + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_they_agree_with_the_stock_experts(tokens, dtype, tolerance, family, build_model):
    experts = layer(family, build_model, dtype)
    assert serves(experts)
    results = []
    for forward in (type(experts).forward, blocked_experts_forward):
        torch.manual_seed(1)
        hidden_TD = torch.randn(tokens, 32, dtype=dtype, requires_grad=True)
        weights_TK = torch.rand(tokens, 2, dtype=dtype, requires_grad=True)
        mixed_TD = forward(experts, hidden_TD, torch.rand(tokens, 8).topk(2).indices, weights_TK)
        mixed_TD.square().sum().backward()
        results.append((mixed_TD, hidden_TD.grad, weights_TK.grad))
    for came, wanted in zip(*results, strict=True):
        torch.testing.assert_close(came, wanted, atol=tolerance, rtol=tolerance)


class _Linear:
    """Experts that multiply by a number of their own."""

    num_experts = 6
    gate_up_proj = torch.ones(6, 1, 1)
    down_proj = torch.arange(1.0, 7.0).view(6, 1, 1)

    @staticmethod
    def _apply_gate(inner):
        return inner


@given(st.lists(st.permutations(range(6)), max_size=80), st.integers(1, 6))
def test_every_slot_counts_once(choices, slots):
    experts_TK = torch.tensor([choice[:slots] for choice in choices], dtype=torch.long).view(len(choices), slots)
    hidden_TD, weights_TK = torch.ones(len(choices), 1), torch.ones(len(choices), slots)
    mixed_TD = blocked_experts_forward(_Linear(), hidden_TD, experts_TK, weights_TK)
    assert torch.equal(mixed_TD[:, 0], (experts_TK + 1).sum(-1).float())
