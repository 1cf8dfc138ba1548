"""Top-p routing: as many experts as it takes to cover a share of the probability."""

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.routing import ScoringRule


class TopPHead(RouterHead):
    r"""Gives a token the fewest experts that together hold a share of its probability: more where the router doubts.

    Formula: with the experts in order of choice, ``S`` is the shortest prefix with ``sum_S p >= P0``, the expert that
    crosses ``P0`` included, at least 1 and at most ``slots`` of them; ``w`` by the family's rule (``p[S]``). From
    the start a token has another number of experts than the pretrained router gives it.

    Args:
        p: ``P0``, the share of the probability to cover, in (0, 1].
        slots: Most experts per token, >= 1; no more than the layer has are used.

    Shape:
        - ``weights_TK``: (T, ``slots``).

    Raises:
        ConfigError: ``p`` is outside (0, 1], or ``slots`` is below 1.

    Reference:
        Huang et al. 2024, "Harder Tasks Need More Experts", https://arxiv.org/abs/2403.07652 (citation unverified).
    """

    traits = HeadTraits(exact_start=False, variable_k=True, reason="the number of experts follows the probability")

    def __init__(self, p: float = 0.4, slots: int = 16) -> None:
        super().__init__()
        require(0 < p <= 1, "a share in (0, 1]", p, "head.p", "the default is 0.4.")
        require(slots >= 1, "at least 1 slot", slots, "head.slots", "the default is 16.")
        self.p, self.most = p, slots

    def slots_for(self, rule: ScoringRule) -> int:
        return self.most

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor:
        place_K = torch.arange(experts_TK.shape[1], device=experts_TK.device)
        return covering_prefix(probs_TE.gather(-1, experts_TK), self.p) & (place_K < self.most)


def covering_prefix(probs_TK: Tensor, share: float) -> Tensor:
    """Return which experts belong to the shortest prefix that holds a share of the probability; the first always does.

    Args:
        probs_TK: Probabilities in the order of choice.
        share: Share to cover, in (0, 1].

    Example:
        >>> covering_prefix(torch.tensor([[0.5, 0.25, 0.125]]), 0.75).tolist()
        [[True, True, False]]
    """
    before_TK = probs_TK.cumsum(-1).roll(1, dims=-1)
    before_TK[:, 0] = 0.0
    return before_TK < share
