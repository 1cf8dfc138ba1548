"""A low-rank change of the router weight, started from nothing."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead


class LowRankHead(RouterHead):
    """Trains a change of the router weight of low rank, beside the frozen pretrained one.

    Formula: ``W' = W + (alpha / r) B A`` with ``A`` (r, D), its entries drawn from N(0, 1/D), and ``B`` (E, r) all 0 at
    the start, so that it starts exactly. While ``B`` is 0 the gradient of ``A`` is 0 too: ``A`` moves from the second
    step on.

    Args:
        rank: r, at least 1; above min(E, D) it adds nothing.
        alpha: Strength of the change, > 0, divided by the rank.

    Shape:
        - ``down_RD``: A, (r, D), and ``up_ER``: B, (E, r), both trained.
        - output ``logits_TE``: (T, E).

    Raises:
        ConfigError: ``rank`` is below 1 or ``alpha`` is not above 0.

    Reference:
        Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685 (the form); rank 8 and alpha 32 as RouterLens has them
        in its released code.
    """

    down_RD: nn.Parameter
    up_ER: nn.Parameter
    traits = HeadTraits(trainable=True, foldable=True)

    def __init__(self, rank: int = 8, alpha: float = 32.0) -> None:
        super().__init__()
        require(rank >= 1, "a rank of at least 1", rank, "head.rank", "the default is 8.")
        require(0 < alpha < math.inf, "a strength above 0", alpha, "head.alpha", "the default is 32.")
        self.rank, self.alpha = rank, alpha

    def bind(self, gate: BaseGate) -> None:
        """Draw A from torch's global generator, on the CPU so that a seed means the same on every device."""
        experts, width = gate.weight_ED.shape
        device = gate.weight_ED.device
        down_RD = torch.randn(self.rank, width, dtype=torch.float32, device="cpu") / math.sqrt(width)
        self.down_RD = nn.Parameter(down_RD.to(device))
        self.up_ER = nn.Parameter(torch.zeros(experts, self.rank, dtype=torch.float32, device=device))

    def router_weight(self, weight_ED: Tensor) -> Tensor:
        return weight_ED.float() + self.alpha / self.rank * self.up_ER @ self.down_RD

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        dtype = logits_TE.dtype
        inner_TR = functional.linear(hidden_TD.to(dtype), self.down_RD.to(dtype))
        return logits_TE + self.alpha / self.rank * functional.linear(inner_TR, self.up_ER.to(dtype))
