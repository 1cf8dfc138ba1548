"""Expert orthogonality: choose experts that say different things about a token."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace, normalised

RIDGE = 1e-8
"""Added to the diagonal of unit vectors' inner products, so that outputs which coincide can be projected too."""


class ExpertOrthogonalityLoss(AuxLoss):
    """Moves weight away from chosen experts whose outputs repeat those of the others.

    Formula: with unit vectors ``e_k`` along the outputs of a token's K chosen experts and ``v = w / sum_S w``,
    ``projection``: ``(1/K) sum_k v_k^2 |Proj_span(e_j, j != k) e_k|^2``; ``pairwise``, the cheaper stand-in:
    ``(1/(K (K - 1))) sum_{j != k} v_j v_k <e_j, e_k>^2``; then the mean over tokens, then over layers. Slots that are
    not in use count neither as experts nor in K. This is the router-only form: the experts are frozen and their outputs
    carry no gradient, so only the weights do, as shares, or shrinking all of them would do. Value 0 for orthogonal
    outputs; where all outputs coincide, with a uniform gate, ``1/K^2`` in either form (0.0156 for 8 experts). Costs one
    more pass of every token through its experts.

    Args:
        weight: Factor on the loss; positive favours experts that differ.
        form: ``projection`` onto the span of the other outputs, or ``pairwise`` squared cosines.

    Reference:
        Guo et al. 2025, "Advancing Expert Specialization for Better MoE", https://arxiv.org/abs/2505.22323 (for trained
        experts); the weighting for frozen ones is this project's.
    """

    reads_probabilities = False
    needs = frozenset({"hidden"})
    token_mean = True

    def __init__(
        self, weight: float = 1.0, form: Literal["projection", "pairwise"] = "projection", **shared: Any
    ) -> None:
        super().__init__(weight, **shared)
        self.form = form

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        def layer(output: RouterOutput) -> Tensor:
            assert output.hidden_TD is not None
            used_TK = output.counted_TK
            with torch.no_grad():
                outputs_TKD = context.view[output.layer].outputs(output.hidden_TD, output.experts_TK)
                cosines_TKK = output_cosines(outputs_TKD * used_TK[..., None])
            shares_TK, slots_T = normalised(output.weights_TK), used_TK.sum(-1)
            if self.form == "projection":
                projected_TK = projected_shares(cosines_TKK).to(shares_TK.dtype)
                return ((shares_TK.square() * projected_TK).sum(-1) / slots_T.clamp(min=1)).mean()
            squares_TKK = cosines_TKK.square().to(shares_TK.dtype)
            squares_TKK.diagonal(dim1=-2, dim2=-1).zero_()
            pairs_TKK = shares_TK[:, :, None] * shares_TK[:, None, :]
            return ((pairs_TKK * squares_TKK).sum((-2, -1)) / (slots_T * (slots_T - 1)).clamp(min=1)).mean()

        return self.mean_over_layers(trace, context, layer)


def output_cosines(outputs_TKD: Tensor) -> Tensor:
    """Return the cosines between the outputs of each token's experts, in float64; 0 with an output that is 0.

    Shape:
        - returns (T, K, K).
    """
    unit_TKD = functional.normalize(outputs_TKD.double(), dim=-1)
    return unit_TKD @ unit_TKD.mT


def projected_shares(cosines_TKK: Tensor) -> Tensor:
    """Return the squared length of each unit vector's projection onto the span of the others, 0 to 1.

    By Schur's complement it is ``G_kk - 1 / (G^-1)_kk`` of the cosines G, with ``1e-8`` on their diagonal.

    Shape:
        - returns (T, K).

    Example:
        >>> projected_shares(torch.tensor([[[1.0, 0.6], [0.6, 1.0]]]).double()).round(decimals=4)
        tensor([[0.3600, 0.3600]], dtype=torch.float64)
    """
    eye_KK = torch.eye(cosines_TKK.shape[-1], dtype=cosines_TKK.dtype, device=cosines_TKK.device)
    ridged_TKK = cosines_TKK + RIDGE * eye_KK
    inverse_TK = torch.linalg.inv(ridged_TKK).diagonal(dim1=-2, dim2=-1)
    return torch.clamp(ridged_TKK.diagonal(dim1=-2, dim2=-1) - 1 / inverse_TK, min=0, max=1)
