"""Per-expert scale and bias of the logits: two numbers per expert, the router weight frozen."""

import torch
from torch import Tensor, nn

from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import StockRouter


class ScaleBiasHead(RouterHead):
    """Trains one factor and one constant per expert's logit; which experts are chosen may change.

    Formula: ``z'_i = lambda_i z_i + b_i`` with ``lambda = 1`` and ``b = 0`` at the start; 2E numbers per layer. With a
    bias the scores are no longer a single router weight, so it folds only into a gate that has a bias of its own.

    Shape:
        - ``scale_E``, ``bias_E``: (E,), trained.
        - output ``logits_TE``: (T, E).

    Reference:
        The factor as in the issue https://github.com/marin-community/marin/issues/5512; with a bias it is this
        project's.
    """

    scale_E: nn.Parameter
    bias_E: nn.Parameter
    traits = HeadTraits(trainable=True)

    def bind(self, gate: BaseGate) -> None:
        """Start from factors of 1 and no bias; float32, so that small updates are not lost."""
        experts, device = gate.rule.num_experts, gate.weight_ED.device
        self.scale_E = nn.Parameter(torch.ones(experts, device=device))
        self.bias_E = nn.Parameter(torch.zeros(experts, device=device))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        """Scale and shift the logits, in float32 even at half precision: a factor near 1 would round to 1 there."""
        return logits_TE * self.scale_E + self.bias_E

    def fold(self, router: StockRouter) -> StockRouter:
        """Fold the factors into the rows of the weight, and the constants into the gate's own bias."""
        return router.scaled(self.scale_E).shifted(self.bias_E, type(self).__name__)
