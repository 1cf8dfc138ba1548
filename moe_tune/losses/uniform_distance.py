"""Squared distance of a layer's usage from uniform."""

from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace


class UniformDistanceLoss(AuxLoss):
    """Pulls each layer's usage towards uniform by its squared distance.

    Formula: ``mean_i (F_i - 1/E)^2 + mean_i (P_i - 1/E)^2`` with ``F_i`` expert i's share of the choices and ``P_i``
    its mean probability; then the mean over layers. Choices are counted, so that only the second term has a gradient;
    the first is there to be seen. Value 0 where both are uniform, 0.00342 where both are uniform over 8 of 64 experts
    (0.00171 from each).

    Args:
        weight: Factor on the loss; its values are small, so that weights of 1 to 100 are in order.

    Reference:
        The public code of eulerforge.
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, uniform_distance)


def uniform_distance(output: RouterOutput) -> Tensor:
    """Return the squared distances of choices and probabilities from uniform."""
    counts_E = output.counts_E().to(output.probs_TE.dtype)
    share_E = counts_E / counts_E.sum().clamp(min=1)
    uniform = 1 / len(counts_E)
    return (share_E - uniform).square().mean() + (output.probs_TE.mean(0) - uniform).square().mean()
