"""Gate entropy: how evenly the gate spreads its weight, token by token."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.routing import RouterOutput, RoutingTrace, entropy, normalised


def topk_entropy(output: RouterOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Return the entropy of each token's chosen weights, renormalised, the most it can be, and whether there are any.

    Shape:
        - entropy (T,), float64, in nats, in [0, ln of the slots in use]; that maximum (T,), float64, ln K where every
          slot is in use; mask (T,), False where a token gives no weight to any expert: both are 0 there.
    """
    held_T = output.weights_TK.sum(-1) > 0
    used_T = torch.full_like(held_T, output.weights_TK.shape[-1], dtype=torch.float64)
    if output.used_TK is not None:
        used_T = output.used_TK.sum(-1).double()
    most_T = torch.where(held_T, used_T, 1.0).log()
    return entropy(normalised(output.weights_TK.float())).double(), most_T, held_T


class GateEntropy(RoutingMetric):
    """Mean and standard deviation over tokens of the gate's entropy, per layer.

    Formula: ``H = -sum p ln p``, natural logarithm; ``entropy_all`` over all E probabilities (at most ln 64 = 4.159),
    ``entropy_topk`` over the chosen weights divided by their sum. ``entropy_topk_most`` is the mean of the most that
    can be, the ln of the slots a token uses (ln 8 = 2.079 where all use 8). Tokens that give no expert any weight are
    in neither. NaN where no token is left. Lower is sharper, not better.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    axes: ClassVar[Mapping[str, str]] = {
        "entropy_all_mean": "L",
        "entropy_all_std": "L",
        "entropy_topk_mean": "L",
        "entropy_topk_std": "L",
        "entropy_topk_most": "L",
    }
    all_L: Sum
    all_square_L: Sum
    topk_L: Sum
    topk_square_L: Sum
    most_L: Sum
    tokens_L: Count
    held_L: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            all_T = entropy(output.probs_TE.float()).double()
            topk_T, most_T, held_T = topk_entropy(output)  # both 0 where nothing is held
            self.all_L[index] += all_T.sum()
            self.all_square_L[index] += all_T.square().sum()
            self.topk_L[index] += topk_T.sum()
            self.topk_square_L[index] += topk_T.square().sum()
            self.most_L[index] += most_T.sum()
            self.tokens_L[index] += len(output.mask_T)
            self.held_L[index] += held_T.sum()

    def compute(self) -> dict[str, Tensor]:
        tables = {"entropy_topk_most": self.per_token(self.most_L, self.held_L)}
        sums = {
            "all": (self.all_L, self.all_square_L, self.tokens_L),
            "topk": (self.topk_L, self.topk_square_L, self.held_L),
        }
        for over, (total_L, square_L, tokens_L) in sums.items():
            mean_L = self.per_token(total_L, tokens_L)
            variance_L = self.per_token(square_L, tokens_L) - mean_L.square()
            tables |= {f"entropy_{over}_mean": mean_L, f"entropy_{over}_std": variance_L.clamp(min=0).sqrt()}
        return tables

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        return {key: float(tables[f"{key}_mean"].nanmean()) for key in ("entropy_all", "entropy_topk")}
