"""Gate entropy: how evenly the gate spreads its weight, token by token."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import Part, RouterOutput, RoutingTrace, Scope, entropy, normalised


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
    axes: ClassVar[Mapping[str, str]] = {
        "entropy_all_mean": "L",
        "entropy_all_std": "L",
        "entropy_topk_mean": "L",
        "entropy_topk_std": "L",
    }
    all_L: Tensor
    all_square_L: Tensor
    topk_L: Tensor
    topk_square_L: Tensor
    tokens_L: Tensor

    def __init__(self, shape: MetricShape, scope: Scope | Part) -> None:
        super().__init__(shape, scope)
        for name in ("all_L", "all_square_L", "topk_L", "topk_square_L"):
            self.add_sum(name, "L")
        self.add_sum("tokens_L", "L", torch.long)

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add the entropies of a batch."""
        for output in trace.at(self.scope):
            index = self.shape.layers.index(output.layer)
            all_T, topk_T = (values_T.double() for values_T in gate_entropy(output))
            self.all_L[index] += all_T.sum()
            self.all_square_L[index] += all_T.square().sum()
            self.topk_L[index] += topk_T.sum()
            self.topk_square_L[index] += topk_T.square().sum()
            self.tokens_L[index] += len(output.mask_T)

    def compute(self) -> dict[str, Tensor]:
        """Return means and standard deviations per layer."""
        tables: dict[str, Tensor] = {}
        sums = {"all": (self.all_L, self.all_square_L), "topk": (self.topk_L, self.topk_square_L)}
        for over, (total_L, square_L) in sums.items():
            mean_L = self.per_token(total_L, self.tokens_L)
            variance_L = self.per_token(square_L, self.tokens_L) - mean_L.square()
            tables |= {f"entropy_{over}_mean": mean_L, f"entropy_{over}_std": variance_L.clamp(min=0).sqrt()}
        return tables

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        """Return the means over layers."""
        return {key: float(tables[f"{key}_mean"].mean()) for key in ("entropy_all", "entropy_topk")}
