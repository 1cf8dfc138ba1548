"""Router z-loss: keep the logits small."""

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class ZLoss(AuxLoss):
    """Keeps router logits small, for numerical stability.

    Formula: ``mean_t logsumexp(z_t)^2``, mean over layers. Value 17.3 = (ln 64)^2 for 64 experts at z = 0, minimum 0
    where logsumexp is 0; adding a constant to the logits changes it.

    Args:
        weight: Factor on the loss; OLMoE was pretrained with 0.001.

    Reference:
        Zoph et al. 2022, "ST-MoE", https://arxiv.org/abs/2202.08906
    """

    reads_probabilities = False
    token_mean = True

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(
            trace, context, lambda output: torch.logsumexp(output.logits_TE.float(), -1).square().mean()
        )
