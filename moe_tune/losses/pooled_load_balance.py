"""The load-balancing loss as transformers computes it: all layers in one pool."""

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class PooledLoadBalanceLoss(AuxLoss):
    """Hugging Face's load-balancing loss, kept to reproduce runs made with it; prefer ``LoadBalanceLoss``.

    Formula: ``E sum_i f_i P_i`` with ``f_i`` the choices of expert i per token and ``P_i`` its mean probability, both
    over the tokens of all layers in one pool. Value K at balance (8 for OLMoE), and still K when layers collapse on
    disjoint sets of experts, which it cannot see.

    Args:
        weight: Factor on the loss; 0.01 here weighs as much as K times that in ``LoadBalanceLoss``.

    Reference:
        ``load_balancing_loss_func`` of transformers 5.23.
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        outputs = self.outputs(trace, context)
        tokens = sum(len(output.mask_T) for output in outputs)
        counts_E = torch.stack([output.counts_E() for output in outputs]).sum(0)
        probs_E = torch.stack([output.probs_TE.sum(0) for output in outputs]).sum(0)
        return len(counts_E) * torch.sum(counts_E / max(tokens, 1) * probs_E / max(tokens, 1))
