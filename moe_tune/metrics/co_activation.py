"""Co-activation: which experts are chosen together."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric
from moe_tune.routing import RouterOutput, RoutingTrace


def fired(output: RouterOutput) -> Tensor:
    """Return 1 where a token chose an expert and 0 elsewhere, padding and slots not in use left out.

    Shape:
        - (T, E), float32.
    """
    none_TE = torch.zeros(output.logits_TE.shape, device=output.experts_TK.device)
    # Added, not set: a spare slot repeats an expert.
    return none_TE.scatter_add_(1, output.experts_TK, output.counted_TK.float())


def co_activation(output: RouterOutput) -> Tensor:
    """Return how many tokens chose both experts of every pair; the diagonal counts each expert alone.

    Shape:
        - (E, E), long, symmetric.
    """
    fired_TE = fired(output)
    with torch.autocast(fired_TE.device.type, enabled=False):  # half precision does not count beyond 256
        return (fired_TE.T @ fired_TE).round().long()


class CoActivation(RoutingMetric):
    """Tokens per layer and pair of experts that chose both; from it ``P(j in S | i in S)`` over all pairs.

    Formula: ``co_count[i, j] = #{t: i in S_t and j in S_t}``; a row sums to ``K`` times the count of its expert where
    every token chooses K, else to the number of experts that its tokens chose, all tokens together.

    Reference:
        Muennighoff et al. 2024, section 5.2, https://arxiv.org/abs/2409.02060
    """

    axes: ClassVar[Mapping[str, str]] = {"co_count": "LEE"}
    count_LEE: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            self.count_LEE[index] += co_activation(output)

    def compute(self) -> dict[str, Tensor]:
        return {"co_count": self.count_LEE}
