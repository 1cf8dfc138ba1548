"""How a model family turns router logits into expert weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tune.routing.functions import normalised


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How a model family turns router logits into expert weights.

    ``p = softmax(z)`` in float32; ``w = p[S]``, divided by its sum in families that renormalise.

    Args:
        top_k: Experts per token, K.
        num_experts: Experts of the layer, E.
        renormalise: Whether the K weights are divided by their sum (Qwen3-MoE) or not (OLMoE).
    """

    top_k: int
    num_experts: int
    renormalise: bool

    def probabilities(self, logits_TE: Tensor) -> Tensor:
        """Return the softmax over all experts, in float32."""
        return torch.softmax(logits_TE, dim=-1, dtype=torch.float32)

    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        """Return the weights of the chosen experts, 0 in slots that are not in use."""
        weights_TK = probs_TE.gather(-1, experts_TK)
        if used_TK is not None:
            weights_TK = torch.where(used_TK, weights_TK, 0.0)
            return normalised(weights_TK) if self.renormalise else weights_TK
        return weights_TK / weights_TK.sum(-1, keepdim=True) if self.renormalise else weights_TK
