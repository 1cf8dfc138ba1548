"""Orthogonality or nearness to the start of a router's weight, without data."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class RouterOrthogonalityLoss(AuxLoss):
    """Makes the rows of a router's weight orthogonal, or keeps the weight near the pretrained one.

    Formula: ``orthogonal``: ``sum_ij |(V V^T - I)_ij| / (E (E - 1))`` with V the weight W, its rows scaled to length 1:
    the mean absolute cosine between the rows of two experts. ``anchor``: ``|W - W_0|^2 / |W_0|^2`` with W_0 the
    pretrained weight (Frobenius norms). Then the mean over layers. Value at uniform routing: it does not depend on the
    routing; ``orthogonal`` is 0 for orthogonal rows and 1 for rows along one direction, ``anchor`` 0 at the start and 1
    for W = 0 (a uniform gate). It reads no tokens, whatever the scope.

    Args:
        weight: Factor on the loss; positive orthogonalises, or anchors.
        target: ``orthogonal`` rows, or the pretrained weight as ``anchor``.

    Raises:
        ConfigError: A layer's head does not route with a single weight.

    Reference:
        Omi et al. 2025, "SimBal", https://arxiv.org/abs/2506.14038; the anchor is this project's.
    """

    reads_probabilities = False
    reads = "weights"

    def __init__(
        self, weight: float = 1.0, target: Literal["orthogonal", "anchor"] = "orthogonal", **shared: Any
    ) -> None:
        super().__init__(weight, **shared)
        self.target = target

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        values = []
        for index in self.chosen_layers(trace, context):
            layer = context.view[index]
            weight_ED = layer.router_weight()
            if weight_ED is None:
                raise ConfigError(
                    f"expected a head that routes with a single weight but that of layer {index} does not "
                    "(RouterOrthogonalityLoss). Hint: use RetunedHead or LowRankHead, or drop the loss."
                )
            anchored = self.target == "anchor"
            values.append(relative_change(weight_ED, layer.pretrained_ED) if anchored else row_overlap(weight_ED))
        return torch.stack(values).mean()


def row_overlap(weight_ED: Tensor) -> Tensor:
    """Return the mean absolute cosine between the rows of a weight, in float32.

    Args:
        weight_ED: A router's weight, of at least two experts.

    Example:
        >>> row_overlap(torch.tensor([[3.0, 0.0], [4.0, 3.0]]))
        tensor(0.8000)
    """
    experts = len(weight_ED)
    with torch.autocast(weight_ED.device.type, enabled=False):  # it would multiply in half precision
        unit_ED = functional.normalize(weight_ED.float(), dim=-1)
        cosines_EE = unit_ED @ unit_ED.mT
    other_EE = ~torch.eye(experts, dtype=torch.bool, device=weight_ED.device)  # a row's cosine with itself is 1
    return cosines_EE[other_EE].abs().sum() / (experts * (experts - 1))


def relative_change(weight_ED: Tensor, pretrained_ED: Tensor) -> Tensor:
    """Return the squared distance of a weight from the pretrained one over the latter's squared length, in float32.

    Example:
        >>> relative_change(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
        tensor(0.5000)
    """
    start_ED = pretrained_ED.detach().float()
    return (weight_ED.float() - start_ED).square().sum() / start_ED.square().sum()
