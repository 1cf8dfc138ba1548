"""Mutual information between token and expert: sure of each token, spread over all of them."""

import math
from typing import Any

from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace, entropy


class MutualInformationLoss(AuxLoss):
    """Makes the gate sure of each token while it uses all experts over many tokens.

    Formula: ``beta_c mean_t H(p_t) - beta_u H(P)`` with ``P_i = mean_t p_ti``; then the mean over layers. With both
    betas 1 it is the negative mutual information of token and expert. Value 0 when all tokens have the same
    probabilities (uniform or not), -4.159 = -ln 64 at its minimum: one-hot tokens, balanced over 64 experts.

    Args:
        weight: Factor on the loss; positive raises the mutual information.
        beta_c: Factor on the tokens' mean entropy (the conditional one).
        beta_u: Factor on the entropy of the mean (that of usage).

    Reference:
        Chen et al. 2022, "Mod-Squad", https://arxiv.org/abs/2212.08066 (citation unverified).
    """

    def __init__(self, weight: float = 1.0, beta_c: float = 1.0, beta_u: float = 1.0, **shared: Any) -> None:
        super().__init__(weight, **shared)
        for key, value in (("beta_c", beta_c), ("beta_u", beta_u)):
            where = f"MutualInformationLoss.{key}"
            require(math.isfinite(value), "a finite factor", value, where, "the default is 1.0.")
        self.beta_c, self.beta_u = beta_c, beta_u

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        def layer(output: RouterOutput) -> Tensor:
            probs_TE = output.probs_TE
            return self.beta_c * entropy(probs_TE).mean() - self.beta_u * entropy(probs_TE.mean(0))

        return self.mean_over_layers(trace, context, layer)
