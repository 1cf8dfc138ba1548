"""Load concentration: a narrow task needs few experts."""

from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace, entropy


class LoadConcentrationLoss(AuxLoss):
    """Gathers the usage of a layer on few experts; the opposite of ``MarginalEntropyLoss``.

    Formula: ``+H(P)`` with ``P_i = mean_t p_ti``; then the mean over layers. Value 4.159 = ln 64 where the mean over
    tokens is uniform over 64 experts, 2.079 = ln 8 where it is uniform over one set of 8, 0 where all tokens are sure
    of one expert.

    Args:
        weight: Factor on the loss; positive concentrates.

    Reference:
        Shen et al. 2023, "ModuleFormer", https://arxiv.org/abs/2306.04640
    """

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        return self.mean_over_layers(trace, context, lambda output: entropy(output.probs_TE.mean(0)))
