"""The L1 regulariser of ReLU routing: as many experts per token as the model was made for, evenly used."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.base.ranks import summed_over_ranks
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace

STEP = 1.2
"""Factor by which lambda grows or shrinks after every optimiser step."""


class ReluL1Loss(AuxLoss):
    """Steers the experts in use per token towards K, those in most demand first; made for heads with a variable number.

    Formula: ``lambda (E / (K M^2)) sum_i c_i sum_t w_ti`` per layer of M tokens, then the mean over layers; ``w_ti`` is
    the weight of expert i in the trace (0 if not chosen), ``c_i`` its number of choices (no gradient). After every
    optimiser step one lambda for all layers becomes ``1.2 lambda`` if ``sparsity < 1 - K/E``, else ``lambda / 1.2``;
    ``sparsity = 1 - mean(slots in use / E)`` over the tokens, layers, micro-batches and processes of the step. lambda
    starts at 1e-8, gets no gradient, and is carried in checkpoints. Value lambda times the mean sum of a token's
    weights when the choices are balanced (lambda for a uniform gate whose K weights sum to one), E/K times that when
    all tokens choose one set of K. With exactly K experts per token, lambda only shrinks.

    Args:
        weight: Factor on the loss beside lambda; 1 is the published form.

    Reference:
        Wang et al. 2024, "ReMoE", https://arxiv.org/abs/2412.14711
    """

    reads_probabilities = False

    def __init__(self, weight: float = 1.0, **shared: Any) -> None:
        super().__init__(weight, **shared)
        self.state = {"lambda": torch.tensor(1e-8)}

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        top_k, outputs = context.rule.top_k, self.outputs(trace, context)
        # Sparsity below 1 - K/E says that more than K slots per token are in use: whole numbers, compared exactly.
        used = torch.stack([output.counts_E().sum() for output in outputs]).sum()
        meant = torch.full_like(used, top_k * sum(len(output.mask_T) for output in outputs))
        slots = torch.stack([used, meant])
        self.state["slots"] = slots + self.state.get("slots", torch.zeros_like(slots)).to(slots.device)
        value = self.mean_over_layers(trace, context, lambda output: balanced_l1(output, top_k))
        return self.state["lambda"].to(value.device) * value

    def after_step(self) -> None:
        if "slots" not in self.state:
            return
        used, meant = summed_over_ranks(self.state.pop("slots")).tolist()
        factor = STEP if used > meant else 1 / STEP
        # Never 0, from which it could not rise again.
        self.state["lambda"] = (self.state["lambda"] * factor).clamp(min=torch.finfo(torch.float32).tiny)


def balanced_l1(output: RouterOutput, top_k: int) -> Tensor:
    """Return ``(E / (K M^2)) sum_i c_i sum_t w_ti`` of one layer.

    Args:
        output: The layer's routing, all of whose M tokens count; at least one.
        top_k: K, experts per token that the model was made for.

    Example:
        >>> weights = torch.tensor([[0.5], [0.25]])
        >>> logits, choice = torch.zeros(2, 4), torch.tensor([[0], [1]])
        >>> float(balanced_l1(RouterOutput(logits, logits, weights, choice, torch.ones(2).bool(), 0), 1))
        0.75
    """
    counts_E, tokens = output.counts_E(), len(output.mask_T)
    # sum_i c_i sum_t w_ti: each weight counts as often as its expert was chosen.
    demand_TK = counts_E[output.experts_TK].to(output.weights_TK.dtype)
    return len(counts_E) / (top_k * tokens**2) * torch.sum(demand_TK * output.weights_TK)
