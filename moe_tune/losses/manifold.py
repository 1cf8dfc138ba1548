"""Manifold regularisation: questions that are alike are routed alike, as those that are answered correctly are."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace

LAYERS = 5
"""The last layers with a head whose routing is compared, as the paper has it."""


class ManifoldLoss(AuxLoss):
    """Pulls the gate of each question towards those of its nearest training questions that are answered correctly.

    Formula: ``mean_i sum_l sum_j W_ij |p_li - sg(p_lj)|^2`` at the answer position, over the last five layers with a
    head; j are the 3 nearest of i among the training questions answered correctly, i and its copies left out. ``W_ij =
    exp(-d_ij^2 / 2 s^2)``, divided by its sum over j, ``s`` the median over training questions of the distance to the
    third. Distances are those of ``e_i``, the mean over the prompt of the pretrained model's last hidden states, less
    its training mean, of length one. Who is right, and ``p_j``, are taken from the routers as they are when an epoch
    begins, which costs a pass over the training split; the ``e_i`` cost one over whole prompts before training.
    Value ``sum_l sum_j W_ij |1/E - p_lj|^2`` for a uniform gate, 0 where no question is answered correctly. Set
    ``warmup: 0.1`` for the published schedule. A fit that is resumed within an epoch takes them anew there.

    Args:
        weight: Factor on the loss; positive pulls; 0.8 is the published one.

    Raises:
        ConfigError: The loss looks at a layer without a head.

    Reference:
        Li et al. 2025, "RoMA", https://arxiv.org/abs/2511.07419, equations 2 to 9. Its own code reads the routing
        weights of a question from a file, which leaves the regulariser without a gradient, and lets a correct question
        be its own neighbour: neither is done here. The stopped gradient, the embedding and the scale ``s`` are this
        project's, where the paper is silent or names a model of its own.
    """

    needs = frozenset({"neighbours"})
    scopes = ("answer",)

    def __init__(self, weight: float = 0.8, **shared: Any) -> None:
        super().__init__(weight, **shared)

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        neighbours = context.neighbours
        assert neighbours is not None
        self.refuse_unknown(self.chosen_layers(trace, context), neighbours.probs_RE)
        question_T = trace.question_T[trace.answer_T]
        weight_TN = neighbours.weight_QN[question_T]
        values = []
        for output in self.outputs(trace, context)[-LAYERS:]:
            theirs_TNE = neighbours.probs_QNE(output.layer)[question_T]
            away_TN = (output.probs_TE[:, None] - theirs_TNE).square().sum(-1)
            values.append((weight_TN * away_TN).sum() / max(1, len(question_T)))
        return torch.stack(values).sum()
