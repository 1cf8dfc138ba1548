"""Expert activation: which experts fire, and how the load is spread."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import Part, RouterOutput, RoutingTrace, Scope


def weight_mass(output: RouterOutput, keep_T: Tensor) -> Tensor:
    """Return the sum of the weights that some of the tokens gave each expert.

    Shape:
        - (E,), float64.
    """
    keep_TK = keep_T[:, None].expand_as(output.experts_TK)
    if output.used_TK is not None:
        keep_TK = keep_TK & output.used_TK
    weights_TK = output.weights_TK.double() * keep_TK
    mass_E = torch.zeros(output.logits_TE.shape[-1], dtype=torch.float64, device=weights_TK.device)
    return mass_E.index_add_(0, output.experts_TK.reshape(-1), weights_TK.reshape(-1))


def expert_activation(output: RouterOutput) -> tuple[Tensor, Tensor]:
    """Return how many tokens chose each expert, and the sum of the weights they gave it.

    Shape:
        - counts (E,), long; weight mass (E,), float64.
    """
    return output.counts_E(), weight_mass(output, output.mask_T)


class ExpertActivation(RoutingMetric):
    """Counts per layer and expert of the tokens that chose it.

    The history holds ``activated_experts`` (experts per layer chosen at least once, mean over layers),
    ``never_activated_share`` (share of all layers' experts never chosen; "never" is within the questions seen) and
    ``load_imbalance`` (largest over mean load, mean over layers; 1 is even).

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    higher_is_better = None
    axes: ClassVar[Mapping[str, str]] = {"count": "LE", "weight_mass": "LE", "tokens": "L"}
    count_LE: Tensor
    mass_LE: Tensor
    tokens_L: Tensor

    def __init__(self, shape: MetricShape, scope: Scope | Part) -> None:
        super().__init__(shape, scope)
        self.add_sum("count_LE", "LE", torch.long)
        self.add_sum("mass_LE", "LE")
        self.add_sum("tokens_L", "L", torch.long)

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for output in trace.at(self.scope):
            index = self.shape.layers.index(output.layer)
            counts_E, mass_E = expert_activation(output)
            self.count_LE[index] += counts_E
            self.mass_LE[index] += mass_E
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
