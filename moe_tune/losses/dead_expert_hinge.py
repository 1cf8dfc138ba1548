"""Dead-expert hinge: a floor under every expert's mean probability."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class DeadExpertHingeLoss(AuxLoss):
    """Lifts experts that the gate has all but forgotten, and leaves the others alone.

    Formula: ``sum_i relu(tau / E - P_i)`` with ``P_i = mean_t p_ti``; then the mean over layers. Value 0 for a uniform
    gate, and as long as every expert has at least tau times its even share; ``tau (1 - K/E)`` when the gate is uniform
    over one set of K (0.0875 for 8 of 64 and tau 0.1). Where no expert is below the floor, value and gradient are 0
    whatever the routing: unlike other losses of the routing it is flat there, and by design.

    Args:
        weight: Factor on the loss; positive lifts.
        tau: Floor as a share of the even share 1/E, above 0 and at most 1.

    Raises:
        ConfigError: ``tau`` is outside its range.

    Reference:
        This project's.
    """

    def __init__(self, weight: float = 1.0, tau: float = 0.1, **shared: Any) -> None:
        super().__init__(weight, **shared)
        hint = "the default 0.1 lifts experts with less than a tenth of their even share."
        require(0 < tau <= 1, "a share above 0 and at most 1", tau, "DeadExpertHingeLoss.tau", hint)
        self.tau = tau

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, lambda output: shortfall(output.probs_TE.mean(0), self.tau))


def shortfall(mean_E: Tensor, tau: float) -> Tensor:
    """Return how much probability the experts below ``tau / E`` lack together.

    Args:
        mean_E: Mean probability of each expert.
        tau: Floor as a share of 1/E.

    Example:
        >>> shortfall(torch.tensor([0.7, 0.3, 0.0, 0.0]), 0.5)
        tensor(0.2500)
    """
    return torch.relu(tau / len(mean_E) - mean_E).sum()
