"""Squared coefficient of variation of the experts' importance."""

from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class SquaredVariationLoss(AuxLoss):
    """Evens out the experts' importance, the sum of their probabilities over the tokens.

    Formula: ``Var_i(I_i) / mean_i(I_i)^2`` with ``I_i = sum_t p_ti`` and the unbiased variance over the E experts
    (divided by E - 1); then the mean over layers. Value 0 where the importance is uniform, 7.11 where it is uniform
    over 8 of 64 experts, 64 where one of 64 has it all. The original adds the same of a smooth load, which only noisy
    top-k routing defines; it is left out.

    Args:
        weight: Factor on the loss; positive evens out.

    Reference:
        Shazeer et al. 2017, "Outrageously Large Neural Networks", https://arxiv.org/abs/1701.06538 (citation
        unverified).
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, lambda output: squared_variation(output.probs_TE.sum(0)))


def squared_variation(importance_E: Tensor) -> Tensor:
    """Return the unbiased variance over the squared mean.

    Args:
        importance_E: Importance of each expert, of positive sum; at least two experts.
    """
    return importance_E.var(correction=1) / importance_E.mean().square()
