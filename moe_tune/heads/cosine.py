"""Cosine routing: logits from directions alone, with one sharpness per layer."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import LayerTable


class CosineHead(RouterHead):
    """Scores experts by the cosine between the hidden state and their row of the router weight, times a factor.

    Formula: ``z_i = g <W_i / |W_i|, h / |h|>`` with one ``g`` per layer, fitted so that over a sample of the training
    questions and all experts the standard deviation of ``z`` is that of the pretrained logits; before calibration
    ``g = 1``. An expert no longer wins by a long row, so the choice may differ from the start. Scores are no product of
    ``h`` with a single weight, so it folds into none.

    Args:
        train: ``scale`` trains ``g`` alone; ``all`` also a copy of the router weight (its rows' lengths do nothing).

    Shape:
        - ``scale``: g, a scalar; ``weight``: (E, D), only with ``all``.
        - output ``logits_TE``: (T, E), in [-g, g].

    Reference:
        Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of Experts" (X-MoE),
        https://arxiv.org/abs/2204.09179; citation unverified. The fit of g is this project's.
    """

    scale: nn.Parameter
    weight: nn.Parameter
    traits = HeadTraits(
        trainable=True,
        needs_calibration=True,
        exact_start=False,
        replaces_logits=True,
        reason="cosines leave out the lengths of the hidden state and of the router weight's rows",
    )

    def __init__(self, train: Literal["scale", "all"] = "scale") -> None:
        super().__init__()
        self.trains_weight = train == "all"

    def bind(self, gate: BaseGate) -> None:
        self.scale = nn.Parameter(torch.ones((), device=gate.weight_ED.device))
        if self.trains_weight:
            self.weight = nn.Parameter(gate.weight_ED.detach().clone().to(torch.float32))
        # In a tuple, so that the model's own weight is not a tensor of this head: it stays out of its checkpoints.
        self.pretrained = (gate.weight_ED,)

    @torch.no_grad()
    def calibrate(self, table: LayerTable) -> None:
        spread = cosines(table.hidden_QD, self.pretrained[0]).std(correction=0)
        self.scale.copy_(table.logits_QE.std(correction=0) / spread.clamp(min=1e-8))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        weight_ED = self.weight if self.trains_weight else self.pretrained[0].detach()
        return self.scale * cosines(hidden_TD, weight_ED)


def cosines(hidden_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """Return the cosine between every hidden state and every row of a weight, in float32; 0 where a vector is 0.

    Shape:
        - returns (T, E).

    Example:
        >>> cosines(torch.tensor([[3.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]])).tolist()
        [[1.0, 0.0]]
    """
    return functional.linear(functional.normalize(hidden_TD.float()), functional.normalize(weight_ED.float()))
