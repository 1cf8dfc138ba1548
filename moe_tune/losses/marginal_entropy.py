"""Marginal entropy: spread the gate's average over all experts, whatever single tokens do."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace, entropy


class MarginalEntropyLoss(AuxLoss):
    """Spreads the mean probabilities of a layer over its experts, and leaves each token free to be sure.

    Formula: ``-H(Pbar)`` with ``Pbar = mu sg(ema) + (1 - mu) P``, ``P_i`` the batch's mean probability of expert i and
    ``ema`` the last ``Pbar`` (the first is P); then the mean over layers. Value -4.159 = -ln 64 where the mean over
    tokens is uniform over 64 experts, -2.079 = -ln 8 where it is uniform over one set of 8, 0 where all tokens are sure
    of one expert. Processes share one ema: after each optimiser step it is averaged over them.

    Args:
        weight: Factor on the loss; positive spreads.
        momentum: mu, at least 0 and below 1, the part of the past in the mean; raise it for small batches. The gradient
            shrinks by ``1 - mu``.

    Raises:
        ConfigError: ``momentum`` is below 0, or not below 1.

    Reference:
        Chen et al. 2022, "Mod-Squad", https://arxiv.org/abs/2212.08066 (the term alone; citation unverified); the
        moving average is this project's.
    """

    def __init__(self, weight: float = 1.0, momentum: float = 0.0, **shared: Any) -> None:
        super().__init__(weight, **shared)
        hint = "0 looks at the batch alone, 0.9 at about ten batches."
        require(0 <= momentum < 1, "a share in [0, 1)", momentum, "MarginalEntropyLoss.momentum", hint)
        self.momentum = momentum

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, lambda output: -entropy(self._marginal(output)))

    def _marginal(self, output: RouterOutput) -> Tensor:
        marginal_E, key = output.probs_TE.mean(0), f"ema_{output.layer}"
        if not self.momentum:
            return marginal_E
        if key in self.state:
            marginal_E = torch.lerp(marginal_E, self.state[key].to(marginal_E.device), self.momentum)
        self.state[key] = marginal_E.detach()
        return marginal_E

    def after_step(self) -> None:
        for key, ema_E in self.state.items():
            self.state[key] = summed_over_ranks(ema_E) / summed_over_ranks(torch.ones_like(ema_E))
