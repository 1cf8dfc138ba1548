"""Probability variance: let each token tell its experts apart."""

from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class ProbabilityVarianceLoss(AuxLoss):
    """Widens the differences between the probabilities that a token gives to its experts.

    Formula: ``-mean_t Var_i(p_ti)``, the unbiased variance over the E experts of one token (divided by E - 1); then the
    mean over layers. Value 0 for a uniform gate, -0.00174 for a gate uniform over 8 of 64 experts, -0.015625 = -1/64
    for a one-hot gate, so that weights of 1 to 100 are in order.

    Args:
        weight: Factor on the loss; positive widens.

    Reference:
        Guo et al. 2025, "Advancing Expert Specialization for Better MoE", https://arxiv.org/abs/2505.22323
    """

    token_mean = True

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, lambda output: -output.probs_TE.var(-1, correction=1).mean())
