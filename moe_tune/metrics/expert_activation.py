"""Expert activation: which experts fire, and how the load is spread."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.routing import RouterOutput, RoutingTrace


def weight_mass(output: RouterOutput, keep_T: Tensor) -> Tensor:
    """Return the sum of the weights that some of the tokens gave each expert.

    Shape:
        - (E,), float64.
    """
    weights_TK = output.weights_TK.double() * (output.counted_TK & keep_T[:, None])
    mass_E = torch.zeros(output.logits_TE.shape[-1], dtype=torch.float64, device=weights_TK.device)
    return mass_E.index_add_(0, output.experts_TK.reshape(-1), weights_TK.reshape(-1))


class ExpertActivation(RoutingMetric):
    """Counts per layer and expert of the tokens that chose it.

    The history holds ``activated_experts`` (experts per layer chosen at least once, mean over layers),
    ``never_activated_share`` (share of all layers' experts never chosen; "never" is within the questions seen) and
    ``load_imbalance`` (largest over mean load, mean over layers; 1 is even).

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    axes: ClassVar[Mapping[str, str]] = {"count": "LE", "weight_mass": "LE", "tokens": "L"}
    count_LE: Count
    mass_LE: Sum
    tokens_L: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            self.count_LE[index] += output.counts_E()
            self.mass_LE[index] += weight_mass(output, output.mask_T)
            self.tokens_L[index] += len(output.mask_T)

    def compute(self) -> dict[str, Tensor]:
        return {"count": self.count_LE, "weight_mass": self.mass_LE, "tokens": self.tokens_L}

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        count_LE = tables["count"].double()
        return {
            "activated_experts": float((count_LE > 0).sum(-1).double().mean()),
            "never_activated_share": float((count_LE == 0).double().mean()),
            "load_imbalance": float((count_LE.amax(-1) / count_LE.mean(-1).clamp(min=1e-12)).mean()),
        }
