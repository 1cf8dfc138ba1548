"""Gate entropy: how evenly the gate spreads its weight, token by token."""

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import RouterOutput, RoutingTrace, Scope, entropy, normalised


def gate_entropy(output: RouterOutput) -> tuple[Tensor, Tensor]:
    """Return each token's gate entropy in nats: over all experts, and over the chosen K renormalised.

    Args:
        output: One layer's routing.

    Shape:
        - two tensors (T,), in [0, ln E] and [0, ln K].
    """
    return entropy(output.probs_TE.float()), entropy(normalised(output.weights_TK.float()))


class GateEntropy(RoutingMetric):
    """Mean and standard deviation over tokens of the gate's entropy, per layer.

    Formula: ``H = -sum p ln p``, natural logarithm; ``entropy_all`` over all E probabilities (at most ln 64 = 4.159),
    ``entropy_topk`` over the K weights divided by their sum (at most ln 8 = 2.079). Lower is sharper, not better.

    Args:
        shape: The sizes of its states.
        scope: Which tokens count.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    higher_is_better = None
    total_L2: Tensor
    square_L2: Tensor
    tokens_L: Tensor

    def __init__(self, shape: MetricShape, scope: Scope) -> None:
        super().__init__(shape, scope)
        layers = len(shape.layers)
        self.add_sum("total_L2", layers, 2)
        self.add_sum("square_L2", layers, 2)
        self.add_sum("tokens_L", layers, dtype=torch.long)

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add the entropies of a batch."""
        for output in trace.at(self.scope):
            index = self.shape.layers.index(output.layer)
            values_T2 = torch.stack(gate_entropy(output), dim=-1).double()
            self.total_L2[index] += values_T2.sum(0)
            self.square_L2[index] += values_T2.square().sum(0)
            self.tokens_L[index] += len(values_T2)

    def compute(self) -> dict[str, Tensor]:
        """Return means and standard deviations per layer."""
        count_L1 = self.tokens_L[:, None].clamp(min=1)
        mean_L2 = self.total_L2 / count_L1
        std_L2 = (self.square_L2 / count_L1 - mean_L2.square()).clamp(min=0).sqrt()
        return {
            "entropy_all_mean": mean_L2[:, 0],
            "entropy_all_std": std_L2[:, 0],
            "entropy_topk_mean": mean_L2[:, 1],
            "entropy_topk_std": std_L2[:, 1],
        }

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        """Return the means over layers."""
        return {key: float(tables[f"{key}_mean"].mean()) for key in ("entropy_all", "entropy_topk")}
