"""Accuracy pull: train the gate towards the experts whose training questions were answered correctly."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace
from moe_tune.stats.shrinkage import surplus_scores


class AccuracyPullLoss(AuxLoss):
    """Pulls probability towards experts that did better on the training split; the trainable twin of AccuracyBiasHead.

    Formula: ``-sum_i s_i P_i`` with ``P_i = mean_t p_ti``, then the mean over layers; ``s_i`` is the z-score of the
    shrunk accuracy ``A_i = (r_i + k A) / (n_i + k)`` over the layer's experts with ``n_i >= n_min`` (mean and sd, ddof
    0, over these), 0 for the others and where the sd is below 1e-8. ``n_i`` are the training questions whose answer
    token chose expert i, ``r_i`` the correct ones, ``A = sum r / sum n``. No gradient reaches ``s_i``. Value 0 for a
    uniform gate, ``-max_i s_i`` at its minimum, where all tokens are sure of the best expert.

    Args:
        weight: Factor on the loss; positive pulls towards accurate experts.
        n_min: Experts chosen by fewer training questions than this are neither sought nor shunned.
        shrinkage: Pseudo-count k, at least 0, in questions, that pulls an expert's accuracy to the layer's.

    Raises:
        ConfigError: ``shrinkage`` is below 0.

    Reference:
        This project's; the idea of accuracy-aware gating: Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    needs = frozenset({"table"})
    token_mean = True

    def __init__(self, weight: float = 1.0, n_min: int = 30, shrinkage: float = 50.0, **shared: Any) -> None:
        super().__init__(weight, **shared)
        where = "AccuracyPullLoss.shrinkage"
        require(n_min >= 0, "questions from 0", n_min, "AccuracyPullLoss.n_min", "the default is 30.")
        require(shrinkage >= 0, "a pseudo-count of at least 0", shrinkage, where, "the default is 50.")
        self.n_min, self.shrinkage = n_min, shrinkage

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        def layer(output: RouterOutput) -> Tensor:
            assert context.tables is not None
            table = context.tables[output.layer]
            score_E = accuracy_zscore(table.chosen_E, table.correct_E, self.n_min, self.shrinkage)
            return -torch.sum(score_E.to(output.probs_TE.device) * output.probs_TE.mean(0))

        return self.mean_over_layers(trace, context, layer)


def accuracy_zscore(chosen_E: Tensor, correct_E: Tensor, n_min: int, shrinkage: float) -> Tensor:
    """Return the z-score of each expert's shrunk accuracy; the formula stands in ``AccuracyPullLoss``.

    Args:
        chosen_E: Questions routed to each expert.
        correct_E: Those answered correctly.
        n_min: Fewest questions for a score.
        shrinkage: Pseudo-count, at least 0.

    Example:
        >>> accuracy_zscore(torch.tensor([100, 100, 3]), torch.tensor([90, 10, 3]), 30, 50.0)
        tensor([ 1., -1.,  0.])
    """
    fewest = max(n_min, 1)
    score_E = surplus_scores(correct_E.cpu().numpy(), chosen_E.cpu().numpy(), fewest, shrinkage)
    enough_E = chosen_E.cpu().numpy() >= fewest
    centred_E = np.where(enough_E, score_E - score_E[enough_E].mean(), 0.0) if enough_E.any() else score_E
    return torch.from_numpy(centred_E).float()
