"""Gate margin: how far the last chosen expert is from the first one left out."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.metrics.co_activation import fired
from moe_tune.routing import BARRED, RouterOutput, RoutingTrace

NEAR = 2.0**-8
"""A relative gap below half a step of bfloat16, which holds 8 bits: rounding may turn the order around."""


def boundary(output: RouterOutput, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest logit among a token's chosen experts, and the highest among the others.

    Shape:
        - two tensors (T,), float64; +inf where nothing is chosen, -inf where nothing is left out.
    """
    logits_TE = logits_TE.float()
    chosen_TK = logits_TE.gather(1, output.experts_TK)
    if output.used_TK is None:
        others_TE = logits_TE.scatter(1, output.experts_TK, -torch.inf)
    else:
        chosen_TK = torch.where(output.used_TK, chosen_TK, torch.inf)
        others_TE = logits_TE.masked_fill(fired(output) > 0, -torch.inf)
    others_TE = others_TE.masked_fill(logits_TE <= BARRED, -torch.inf)  # those are not left out by a margin
    return chosen_TK.amin(1).double(), others_TE.amax(1).double()


def gate_margin(output: RouterOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's margin, whether it is a tie, and whether it is nearly one.

    Shape:
        - margins (T,), float64, not finite where a token chose no expert or all; two masks (T,).
    """
    last_T, next_T = boundary(output, output.logits_TE)
    margin_T = last_T - next_T
    tie_T = margin_T == 0
    return margin_T, tie_T, tie_T | (margin_T.abs() < NEAR * last_T.abs())


class GateMargin(RoutingMetric):
    """Mean margin of the selection per layer, and the share of tokens where it is a tie or nearly one.

    Formula: ``z_(K) - z_(K+1)``, the lowest logit chosen minus the highest left out; a tie is 0, a near tie
    ``|z_(K) - z_(K+1)| < 2^-8 |z_(K)|`` or a tie. The logits are those after scoring: where a head's own scores select
    against them, the margin is negative. Tokens that chose no expert or all of them do not count; without others the
    values are NaN.

    Reference:
        This project's.
    """

    axes: ClassVar[Mapping[str, str]] = {"margin_mean": "L", "tie_rate": "L", "near_tie_rate": "L"}
    margin_L: Sum
    ties_L: Count
    near_ties_L: Count
    tokens_L: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            margin_T, tie_T, near_T = gate_margin(output)
            bounded_T = margin_T.isfinite()
            self.margin_L[index] += torch.where(bounded_T, margin_T, 0.0).sum()
            self.ties_L[index] += tie_T.sum()
            self.near_ties_L[index] += near_T.sum()
            self.tokens_L[index] += bounded_T.sum()

    def compute(self) -> dict[str, Tensor]:
        ties_L, near_ties_L = self.ties_L.double(), self.near_ties_L.double()
        sums = {"margin_mean": self.margin_L, "tie_rate": ties_L, "near_tie_rate": near_ties_L}
        return {name: self.per_token(total_L, self.tokens_L) for name, total_L in sums.items()}
