"""Sinkhorn routing: in training the choice is made from scores that share the batch out among the experts."""

import torch
from torch import Tensor

from moe_tune.heads.base import HeadTraits, RouterHead

_TOLERANCE = 1e-4
_ITERATIONS = 1000  # ends what rounding would keep from converging


class SinkhornHead(RouterHead):
    r"""Chooses experts from a balanced plan for the whole batch in training, and by plain top-k in evaluation.

    Formula: in training ``S = topK(D0 exp(z) D1)``, the diagonal ``D0`` and ``D1`` such that the rows (tokens) sum to
    1/T and the columns (experts) to 1/E, iterated without gradient until ``ln D1`` moves by less than 1e-4 on average;
    ``w`` from ``p`` by the family's rule. ``D0`` moves all experts of a token alike, so the plan ranks as
    ``z + ln D1``. In evaluation ``S = topK(z)``. The plan is made per micro-batch and rank; one token alone cannot be
    shared out and is left as it is. There is nothing to train in it: put it in a stack with a head that has.

    Shape:
        - input ``scores_TE``: (T, E), the tokens the head acts on.

    Reference:
        Clark et al. 2022, "Unified Scaling Laws for Routed Language Models", https://arxiv.org/abs/2202.01169;
        Megatron-LM, https://github.com/NVIDIA/Megatron-LM (sinkhorn).
    """

    traits = HeadTraits(train_only=True)

    def changes_selection(self) -> bool:
        return self.training

    def select(self, scores_TE: Tensor) -> Tensor:
        if not self.training or len(scores_TE) < 2:
            return scores_TE
        return scores_TE + sinkhorn_columns(scores_TE)


@torch.no_grad()
def sinkhorn_columns(scores_TE: Tensor) -> Tensor:
    """Return ``ln D1`` of the plan ``D0 exp(z) D1`` whose rows sum to 1/T and whose columns sum to 1/E.

    Args:
        scores_TE: Scores z of at least one token.

    Example:
        >>> sinkhorn_columns(torch.zeros(3, 2)).exp()
        tensor([1., 1.])
    """
    tokens, experts = torch.tensor(scores_TE.shape, dtype=scores_TE.dtype, device=scores_TE.device).log()
    columns_E = torch.zeros_like(scores_TE[0])
    for _ in range(_ITERATIONS):
        rows_T = -tokens - torch.logsumexp(scores_TE + columns_E, dim=1)
        moved_E = -experts - torch.logsumexp(scores_TE + rows_T[:, None], dim=0)
        error, columns_E = (moved_E - columns_E).abs().mean(), moved_E
        if error < _TOLERANCE:
            break
    return columns_E
