"""Weight profile: how the weight falls from the first chosen expert to the last."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.routing import RouterOutput, RoutingTrace


def weight_profile(output: RouterOutput) -> tuple[Tensor, Tensor]:
    """Return each token's weights, largest first, and the probability of its chosen experts together.

    Shape:
        - weights (T, K), 0 in slots not in use; probability (T,), in [0, 1].
    """
    probs_TK = output.probs_TE.gather(1, output.experts_TK)
    weights_TK = output.weights_TK
    if output.used_TK is not None:
        probs_TK, weights_TK = (torch.where(output.used_TK, one, 0.0) for one in (probs_TK, weights_TK))
    return weights_TK.sort(-1, descending=True).values, probs_TK.sum(-1)


class WeightProfile(RoutingMetric):
    """Mean weight of the 1st to K-th chosen expert per layer, and the mean probability the chosen hold together.

    Formula: ``sorted_weight_mean[k] = mean_t w_t(k)`` with ``w_t(1) >= w_t(2) >= ...``, the weights as the layer uses
    them (of a head with more slots than the family, the K largest); ``topk_mass_mean = mean_t sum_{i in S_t} p_ti``.
    With equal probabilities each weight is 1/E (1/K where the family renormalises) and the mass K/E.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    axes: ClassVar[Mapping[str, str]] = {"sorted_weight_mean": "LK", "topk_mass_mean": "L"}
    weight_LK: Sum
    mass_L: Sum
    tokens_L: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            weights_TK, mass_T = weight_profile(output)
            self.weight_LK[index] += weights_TK[:, : self.shape.top_k].double().sum(0)
            self.mass_L[index] += mass_T.double().sum()
            self.tokens_L[index] += len(output.mask_T)

    def compute(self) -> dict[str, Tensor]:
        return {
            "sorted_weight_mean": self.per_token(self.weight_LK, self.tokens_L),
            "topk_mass_mean": self.per_token(self.mass_L, self.tokens_L),
        }
