"""Routing anchor: keep each token's gate near the pretrained one."""

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace


class RoutingAnchorLoss(AuxLoss):
    """Keeps the gate's probabilities near those the pretrained router gives on the same hidden states.

    Formula: ``mean_t KL(sg(p0_t) || p_t)``, ``p0`` the pretrained router's probabilities; then the mean over layers.
    Value 0 while the gate is the pretrained one; ``ln E - H(p0)`` for a uniform gate (4.159 for 64
    experts and a one-hot p0).

    Args:
        weight: Factor on the loss; positive keeps near.

    Reference:
        This project's.
    """

    needs = frozenset({"base_logits"})
    token_mean = True

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        def layer(output: RouterOutput) -> Tensor:
            assert output.base_logits_TE is not None
            assert output.rule is not None
            log_base_TE = output.rule.log_probabilities(output.base_logits_TE.detach())
            return routing_divergence(log_base_TE, output.probs_TE).mean()

        return self.mean_over_layers(trace, context, layer)


def routing_divergence(log_base_TE: Tensor, probs_TE: Tensor) -> Tensor:
    """Return ``KL(p0 || p)`` of each token, in nats.

    Shape:
        - returns (T,).

    Example:
        >>> routing_divergence(torch.full((1, 2), 0.5).log(), torch.tensor([[0.5, 0.5]]))
        tensor([0.])
    """
    # The floor keeps value and gradient finite where a probability underflows.
    log_probs_TE = probs_TE.clamp(min=torch.finfo(probs_TE.dtype).tiny).log()
    return (log_base_TE.exp() * (log_base_TE - log_probs_TE)).sum(-1)
