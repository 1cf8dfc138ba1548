"""A small network beside the router: what no linear router can express."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead


class MlpHead(RouterHead):
    """Adds the output of a two-layer network to the pretrained logits, the one head that is not linear in h.

    Formula: ``z' = z + U gelu(V h)`` with ``V`` (M, D), its entries drawn from N(0, 1/D), and ``U`` (E, M) all 0 at the
    start, so that it starts exactly. While ``U`` is 0 the gradient of ``V`` is 0 too: ``V`` moves from the second step
    on. The gelu is the exact one.

    Args:
        width: M, hidden units, at least 1.

    Shape:
        - ``inner_MD``: V, (M, D), and ``outer_EM``: U, (E, M), both trained.
        - output ``logits_TE``: (T, E).

    Raises:
        ConfigError: ``width`` is below 1.

    Reference:
        This project's; the activation is Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415
    """

    inner_MD: nn.Parameter
    outer_EM: nn.Parameter
    traits = HeadTraits(trainable=True)

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        require(width >= 1, "at least 1 hidden unit", width, "head.width", "try 128.")
        self.width = width

    def bind(self, gate: BaseGate) -> None:
        """Draw V from torch's global generator, on the CPU so that a seed means the same on every device."""
        experts, width = gate.weight_ED.shape
        device = gate.weight_ED.device
        inner_MD = torch.randn(self.width, width, dtype=torch.float32, device="cpu") / math.sqrt(width)
        self.inner_MD = nn.Parameter(inner_MD.to(device))
        self.outer_EM = nn.Parameter(torch.zeros(experts, self.width, dtype=torch.float32, device=device))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        dtype = logits_TE.dtype
        inner_TM = functional.gelu(functional.linear(hidden_TD.to(dtype), self.inner_MD.to(dtype)))
        return logits_TE + functional.linear(inner_TM, self.outer_EM.to(dtype))
