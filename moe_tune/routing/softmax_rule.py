"""Softmax over all experts, then the top K: OLMoE, Qwen3-MoE and their relatives."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_tune.routing.functions import normalised
from moe_tune.routing.scoring_rule import ScoringRule


@dataclass(frozen=True, slots=True)
class SoftmaxRule(ScoringRule):
    """Weighs the K experts of the largest logits by their softmax over all experts.

    ``p = softmax(z)``, ``S = topK(z)``, ``w = p[S]``, divided by its sum in families that renormalise.

    Args:
        top_k: Experts per token, K.
        num_experts: Experts of the layer, E.
        renormalise: Whether the K weights are divided by their sum (Qwen3-MoE) or not (OLMoE).

    Example:
        >>> rule = SoftmaxRule(1, 2, renormalise=False)
        >>> rule.weights(rule.probabilities(torch.zeros(1, 2)), torch.tensor([[0]]))
        tensor([[0.5000]])
    """

    renormalise: bool

    def probabilities(self, logits_TE: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.softmax(logits_TE, dim=-1, dtype=dtype)

    def log_probabilities(self, logits_TE: Tensor) -> Tensor:
        return torch.log_softmax(logits_TE, dim=-1, dtype=torch.float32)

    def stock_choice(self, logits_TE: Tensor, probs_TE: Tensor, slots: int) -> Tensor:
        return torch.topk(self.barring(probs_TE, -torch.inf), slots, dim=-1).indices

    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        weights_TK = probs_TE.gather(-1, experts_TK)
        if used_TK is not None:
            weights_TK = torch.where(used_TK, weights_TK, 0.0)
            return normalised(weights_TK) if self.renormalise else weights_TK
        return weights_TK / weights_TK.sum(-1, keepdim=True) if self.renormalise else weights_TK

    @property
    def one_total(self) -> bool:
        return self.renormalise

    def renormalised(self) -> "SoftmaxRule":
        return replace(self, renormalise=True)

    def raw(self) -> "SoftmaxRule":
        return replace(self, renormalise=False)
