"""Expert activation: which experts fire, and how the load is spread."""

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import RouterOutput, RoutingTrace, Scope


def expert_activation(output: RouterOutput) -> tuple[Tensor, Tensor]:
    """Return how many tokens chose each expert, and the sum of the weights they gave it.

    Args:
        output: One layer's routing.

    Shape:
        - counts (E,), long; weight mass (E,), float64.
    """
    used_TK = output.mask_T[:, None] & (output.used_TK if output.used_TK is not None else output.mask_T[:, None])
    weights_TK = output.weights_TK.double() * used_TK
    mass_E = torch.zeros(output.logits_TE.shape[-1], dtype=torch.float64, device=weights_TK.device)
    return output.counts_E(), mass_E.index_add_(0, output.experts_TK.reshape(-1), weights_TK.reshape(-1))


class ExpertActivation(RoutingMetric):
    """Counts per layer and expert of the tokens that chose it.

    The history holds ``activated_experts`` (experts per layer chosen at least once, mean over layers),
    ``never_activated_share`` (share of all layers' experts never chosen; "never" is within the questions seen) and
    ``load_imbalance`` (largest over mean load, mean over layers; 1 is even).

    Args:
        shape: The sizes of its states.
        scope: Which tokens count.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    higher_is_better = None
    count_LE: Tensor
    mass_LE: Tensor
    tokens_L: Tensor

    def __init__(self, shape: MetricShape, scope: Scope) -> None:
        super().__init__(shape, scope)
        layers = len(shape.layers)
        self.add_sum("count_LE", layers, shape.num_experts, dtype=torch.long)
        self.add_sum("mass_LE", layers, shape.num_experts)
        self.add_sum("tokens_L", layers, dtype=torch.long)

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add the choices of a batch."""
        for output in trace.at(self.scope):
            index = self.shape.layers.index(output.layer)
            counts_E, mass_E = expert_activation(output)
            self.count_LE[index] += counts_E
            self.mass_LE[index] += mass_E
            self.tokens_L[index] += len(output.mask_T)

    def compute(self) -> dict[str, Tensor]:
        """Return counts, weight mass and tokens."""
        return {"count": self.count_LE, "weight_mass": self.mass_LE, "tokens": self.tokens_L}

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        """Return activated experts, the share never activated, and the load imbalance."""
        count_LE = tables["count"].double()
        return {
            "activated_experts": float((count_LE > 0).sum(-1).double().mean()),
            "never_activated_share": float((count_LE == 0).double().mean()),
            "load_imbalance": float((count_LE.amax(-1) / count_LE.mean(-1).clamp(min=1e-12)).mean()),
        }
