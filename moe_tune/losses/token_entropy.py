"""Token entropy: how sure the gate is, token by token."""

from typing import Any, Literal

from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace, entropy, normalised


class TokenEntropyLoss(AuxLoss):
    """Sharpens the gate with a positive weight, flattens it with a negative one.

    Formula: ``mean_t H(p_t)``, ``H = -sum_i p_i ln p_i``, mean over layers. Value 4.159 = ln 64 for a uniform gate of
    64 experts over all of them, 2.079 = ln 8 over the chosen 8 renormalised, 0 for a one-hot gate.

    Args:
        weight: Factor on the loss; positive sharpens.
        over: ``all`` experts, or the ``chosen`` K renormalised to sum to one.

    Reference:
        Li et al. 2025, "RoMA", https://arxiv.org/abs/2511.07419 (as an ablation).
    """

    token_mean = True

    def __init__(self, weight: float = 1.0, over: Literal["all", "chosen"] = "all", **shared: Any) -> None:
        super().__init__(weight, **shared)
        self.over = over

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        def layer(output: RouterOutput) -> Tensor:
            probs = output.probs_TE if self.over == "all" else normalised(output.weights_TK)
            return entropy(probs).mean()

        return self.mean_over_layers(trace, context, layer)
