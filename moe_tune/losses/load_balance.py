"""Load balancing per layer: 1 when every expert gets its share."""

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace


class LoadBalanceLoss(AuxLoss):
    """Pushes each layer towards using all its experts alike.

    Formula: ``E sum_i F_i P_i`` per layer, then the mean over layers; ``F_i`` is expert i's share of the choices (no
    gradient), ``P_i`` its mean probability. Value 1 when F or P is uniform, (E/K) times the probability mass on the set
    when all tokens choose one set of K; not a lower bound, and above 1 by chance for few tokens (1.08 for 32 tokens).

    Args:
        weight: Factor on the loss; OLMoE was pretrained with 0.01.

    Reference:
        Fedus et al. 2021, "Switch Transformers", https://arxiv.org/abs/2101.03961
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, load_balance)


def load_balance(output: RouterOutput) -> Tensor:
    """Return ``E sum_i F_i P_i`` of one layer, all of whose tokens count.

    Example:
        >>> probs = torch.full((4, 4), 0.25)
        >>> choice = torch.tensor([[0], [1], [2], [3]])
        >>> float(load_balance(RouterOutput(probs, probs, probs[:, :1], choice, torch.ones(4).bool(), 0)))
        1.0
    """
    return balance_of(output.counts_E(), output.probs_TE)


def balance_of(counts_E: Tensor, probs_TE: Tensor) -> Tensor:
    """Return ``E sum_i F_i P_i`` of choices and probabilities that may come from different tokens.

    Args:
        counts_E: Choices of each expert, without gradient.
        probs_TE: Probabilities of the tokens that get the gradient; at least one token.

    Example:
        >>> float(balance_of(torch.tensor([3, 1]), torch.tensor([[1.0, 0.0]])))
        1.5
    """
    share_E = counts_E.to(probs_TE.dtype) / counts_E.sum().clamp(min=1)
    return len(counts_E) * torch.sum(share_E * probs_TE.mean(0))
