"""An experts implementation for CPUs: each expert's rows are padded to whole blocks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "blocked"
BLOCK = 32
"""Rows of a block."""


def blocked_experts_forward(experts: Any, hidden_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Return the mixed expert outputs, as the stock experts do.

    On a CPU the library behind half-precision products compiles a kernel for every number of rows it has not met, which
    at a few hundred rows costs as much as the product itself. Rows padded to whole blocks leave few such numbers.

    Shape:
        - returns (T, D).
    """

    def output(inner: Tensor, expert: int) -> Tensor:
        inner = experts._apply_gate(functional.linear(inner, experts.gate_up_proj[expert]))
        return functional.linear(inner, experts.down_proj[expert])

    return mixed_one_by_one(output, experts.num_experts, hidden_TD, experts_TK, weights_TK, BLOCK)


def mixed_one_by_one(
    output: Callable[[Tensor, int], Tensor],
    num_experts: int,
    hidden_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    block: int,
) -> Tensor:
    """Return the mixed outputs of experts that are asked one after the other, each for all tokens that chose it.

    Args:
        output: Returns what an expert makes of rows of hidden states.
        num_experts: E.
        hidden_TD: The experts' input.
        experts_TK: The experts of each token.
        weights_TK: Their weights.
        block: Rows are padded with zeros to a multiple of this.

    Shape:
        - returns (T, D).
    """
    slots = experts_TK.shape[1]
    expert_N, order_N = experts_TK.reshape(-1).sort(stable=True)
    counts = torch.bincount(expert_N, minlength=num_experts).tolist()
    weight_N = weights_TK.reshape(-1)[order_N]
    mixed_TD = torch.zeros_like(hidden_TD)
    start = 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        rows = slice(start, start + count)
        token_N, start = order_N[rows] // slots, start + count
        inner = functional.pad(hidden_TD[token_N], (0, 0, 0, -count % block))
        outer = output(inner, expert)[:count] * weight_N[rows, None]
        mixed_TD = mixed_TD.index_add(0, token_N, outer.to(mixed_TD.dtype))
    return mixed_TD


def serves(experts: Any) -> bool:
    """Return whether a layer's experts have the layout this implementation reads."""
    plain = experts.has_gate and not (experts.has_bias or experts.is_transposed or experts.has_post_expert_norm)
    return bool(plain)


ALL_EXPERTS_FUNCTIONS.register(NAME, blocked_experts_forward)
