"""Dense straight-through: sparse forward, but every expert's output reaches the router's gradient."""

from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.routing import RouterOutput, StockRouter


class DenseMixerHead(RouterHead):
    r"""Trains the router as if all experts had been mixed, while the output stays the sparse mixture to the last bit.

    Formula: ``y = sum_S sg(w_i) f_i(h) + (d - sg(d))`` with ``d = sum_i wd_i sg(f_i(h))``, where the dense weight
    ``wd_i`` is ``w_i`` in ``S`` and ``p_i sg(sum_S w / sum_S p)`` outside. So ``dL/dp_i = <dL/dy, f_i(h)> = G_i`` for
    every expert where the family does not renormalise; where it does, ``G_i / Z`` outside ``S`` and
    ``(G_i - sum_S w_k G_k) / Z`` inside, ``Z = sum_S p``. Experts, and ``h`` through them, get the sparse gradient
    only; ``h`` also gets the dense one through the router. The outputs of all experts are computed in the backward
    pass, a few experts at a time, and none is kept: memory does not grow with E, time does. There is nothing to train
    in it: put it in a stack with a head that has.

    Args:
        chunk: Experts whose outputs are held at once in the backward pass, >= 1.

    Shape:
        - returns the mixed outputs, (T, D).

    Raises:
        ConfigError: ``chunk`` is below 1.

    Reference:
        Yao et al. 2025, "DenseMixer", https://github.com/yaof20/DenseMixer; the chunked backward pass is this
        project's.
    """

    traits = HeadTraits(keeps_mass=True)

    def __init__(self, chunk: int = 8) -> None:
        super().__init__()
        require(chunk >= 1, "at least 1 expert", chunk, "head.chunk", "the default is 8.")
        self.chunk = chunk

    def fold(self, router: StockRouter) -> StockRouter:
        return router  # the mixture is the stock one; what is added acts in the gradient alone

    def mix(self, mixed_TD: Tensor, hidden_TD: Tensor, output: RouterOutput, experts: nn.Module) -> Tensor:
        weights_TE = unchosen_weights(output)
        nothing_TD: Tensor = _DenseGradient.apply(weights_TE, hidden_TD.detach(), experts, self.chunk)
        return mixed_TD + nothing_TD


def unchosen_weights(output: RouterOutput) -> Tensor:
    """Return ``p_i sg(sum_S w / sum_S p)`` of the experts that were not chosen, 0 for the chosen, (T, E).

    Example:
        >>> probs, choice = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0, 1]])
        >>> output = RouterOutput(probs.log(), probs, probs[:, :2] / 0.75, choice, torch.ones(1).bool(), 0)
        >>> unchosen_weights(output)
        tensor([[0.0000, 0.0000, 0.3333]])
    """
    probs_TE, weights_TK = output.probs_TE, output.weights_TK
    used_TK = output.counted_TK.to(probs_TE.dtype)
    chosen_TE = torch.zeros_like(probs_TE).scatter_add(-1, output.experts_TK, used_TK) > 0
    mass_T1 = torch.where(chosen_TE, probs_TE.detach(), 0.0).sum(-1, keepdim=True)
    ratio_T1 = weights_TK.detach().sum(-1, keepdim=True) / mass_T1.clamp(min=torch.finfo(mass_T1.dtype).tiny)
    return (probs_TE * ratio_T1).masked_fill(chosen_TE, 0.0)


class _DenseGradient(torch.autograd.Function):
    """Zeros, whose gradient with respect to each expert's weight is ``<dL/dy, f_i(h)>``."""

    @staticmethod
    def forward(ctx: Any, weights_TE: Tensor, hidden_TD: Tensor, experts: nn.Module, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden_TD)
        ctx.experts, ctx.chunk, ctx.of_weights = experts, chunk, (weights_TE.shape[1], weights_TE.dtype)
        kind = hidden_TD.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return torch.zeros_like(hidden_TD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the weights."""
        (hidden_TD,) = ctx.saved_tensors
        (num_experts, dtype), (kind, precision, enabled) = ctx.of_weights, ctx.autocast
        tokens, gradient_TD = len(hidden_TD), gradients[0].to(dtype)
        parts: list[Tensor] = []
        with torch.no_grad(), torch.autocast(kind, precision, enabled=enabled):  # as the forward pass computed them
            for one in torch.arange(num_experts, device=hidden_TD.device).split(ctx.chunk):
                index = one.repeat_interleave(tokens)[:, None]
                weight = torch.ones_like(index, dtype=hidden_TD.dtype)
                outputs = ctx.experts(hidden_TD.repeat(len(one), 1), index, weight).view(len(one), tokens, -1)
                parts.append((outputs.to(dtype) * gradient_TD).sum(-1).T)
        return torch.cat(parts, dim=1), None, None, None
