"""A router weight of its own, started from the pretrained one: plain router tuning."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead


class RetunedHead(RouterHead):
    """Trains a full copy of the router weight: plain router tuning, the arm every other idea must beat.

    Formula: ``z = W h + (W' - W) h = W' h`` with ``W' = W`` at the start; the change is computed beside the pretrained
    product, so that at the start it adds exact zeros. The pretrained ``W`` stays where it is, frozen.

    Shape:
        - input ``hidden_TD``: (T, D).
        - output ``logits_TE``: (T, E).

    Reference:
        Muennighoff et al. 2024, https://arxiv.org/abs/2409.02060 (the router); Li et al. 2025, "RoMA",
        https://arxiv.org/abs/2511.07419 (tuning routers alone).
    """

    weight: nn.Parameter
    traits = HeadTraits(trainable=True, foldable=True)

    def bind(self, gate: BaseGate) -> None:
        """Copy the pretrained weight; float32, so that small updates are not lost in a half-precision model."""
        self.weight = nn.Parameter(gate.weight_ED.detach().clone().to(torch.float32))
        # In a tuple, so that the model's own weight is not a tensor of this head: it stays out of its checkpoints.
        self.pretrained = (gate.weight_ED,)

    def router_weight(self, weight_ED: Tensor) -> Tensor:
        return weight_ED.float() + self.weight - self.pretrained[0].detach().float()

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        change_ED = self.weight - self.pretrained[0].detach()
        return logits_TE + functional.linear(hidden_TD.to(logits_TE.dtype), change_ED.to(logits_TE.dtype))
