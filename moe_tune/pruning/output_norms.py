"""How much each expert adds to its tokens: the sum of its weighted outputs' norms, listened to in a forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_experts import expert_outputs
from moe_tune.routing import Scope

AT_ONCE = 1024
"""Tokens whose experts' outputs are in memory at a time, one by one."""


@contextmanager
def output_norms(gated: GatedModel, scope: Scope) -> Iterator[Tensor]:
    """Give the sums of ``w |f(h)|`` of every expert, which forward passes over whole prompts add to while it is open.

    Args:
        gated: The model with heads on it.
        scope: Which tokens count.

    Shape:
        - (L, E), float64, layers in order.
    """
    blocks = gated.family.moe_layers(gated.model)
    sums_LE = torch.zeros(len(blocks), gated.rule.num_experts, dtype=torch.float64, device=gated.device)
    hooks = [
        block.get_submodule(gated.family.experts_path).register_forward_pre_hook(
            partial(_listen, gated, scope, sums_LE[index]), with_kwargs=True
        )
        for index, block in enumerate(blocks.values())
    ]
    try:
        yield sums_LE
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _listen(
    gated: GatedModel, scope: Scope, sums_E: Tensor, experts: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Add what a call of a layer's experts comes to; asked without hooks, they are not heard a second time."""
    hidden_TD, experts_TK, weights_TK = (*args, *named.values())
    keep_T = gated.trace.mask(scope)
    hidden_ND, experts_NK, weights_NK = (one[keep_T] for one in (hidden_TD, experts_TK, weights_TK))
    unheard: Any = experts.forward
    for hidden, chosen, weights in zip(
        *(one.split(AT_ONCE) for one in (hidden_ND, experts_NK, weights_NK)), strict=True
    ):
        norm_NK = expert_outputs(unheard, hidden, chosen).double().norm(dim=-1)
        sums_E.index_add_(0, chosen.reshape(-1), (weights.double().abs() * norm_NK).reshape(-1))
