"""Co-activation: which experts are chosen together."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import Part, RouterOutput, RoutingTrace, Scope


def fired(output: RouterOutput) -> Tensor:
    """Return 1 where a token chose an expert and 0 elsewhere, padding and slots not in use left out.

    Shape:
        - (T, E), float32.
    """
    used_TK = output.mask_T[:, None].expand_as(output.experts_TK)
    if output.used_TK is not None:
        used_TK = used_TK & output.used_TK
    none_TE = torch.zeros(output.logits_TE.shape, device=output.experts_TK.device)
    return none_TE.scatter_add_(1, output.experts_TK, used_TK.float())  # added: a spare slot repeats an expert


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

    higher_is_better = None
    axes: ClassVar[Mapping[str, str]] = {"co_count": "LEE"}
    count_LEE: Tensor

    def __init__(self, shape: MetricShape, scope: Scope | Part) -> None:
        super().__init__(shape, scope)
        self.add_sum("count_LEE", "LEE", torch.long)

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for output in trace.at(self.scope):
            self.count_LEE[self.shape.layers.index(output.layer)] += co_activation(output)

    def compute(self) -> dict[str, Tensor]:
        return {"co_count": self.count_LEE}
