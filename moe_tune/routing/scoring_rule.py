"""The contract of a scoring rule: how a model family turns router logits into choices and weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from moe_tune.routing.functions import stable_top_k

BARRED = -(2.0**14)
"""Logit of an expert that may not be chosen: its probability is exactly 0 as with -inf, but sums, their logarithms and
gradients stay finite; every half precision holds it."""


@dataclass(frozen=True, slots=True)
class ScoringRule(ABC):
    """How a model family turns router logits into the experts of a token and their weights; each layer has its own.

    Args:
        top_k: Experts per token, K.
        num_experts: Experts of the layer, E.
        barred_E: Experts that may not be chosen, (E,) truth values; ``None`` where all may.
        left: How many experts a token can choose from at least; ``None`` is E.
    """

    top_k: int
    num_experts: int
    barred_E: Tensor | None = field(default=None, compare=False, repr=False, kw_only=True)
    left: int | None = field(default=None, compare=False, repr=False, kw_only=True)

    def without(self, barred_E: Tensor) -> Self:
        """Return the rule that never chooses some of the experts, nor any that this one does not.

        Args:
            barred_E: True for each of them, (E,).

        Example:
            >>> from moe_tune.routing import SoftmaxRule
            >>> rule = SoftmaxRule(1, 3, renormalise=False).without(torch.tensor([False, False, True]))
            >>> rule.choose(rule.barring(torch.tensor([[1.0, 2.0, 3.0]])), 1).tolist(), rule.left
            ([[1]], 2)
        """
        both_E = barred_E if self.barred_E is None else self.barred_E | barred_E
        return replace(self, barred_E=both_E, left=self.left_by(both_E))

    def left_by(self, barred_E: Tensor) -> int:
        """Return how many experts a token can choose from at least where some are barred."""
        return int((~barred_E).sum())

    def barring(self, scores_TE: Tensor, lowest: float = BARRED) -> Tensor:
        """Return logits or scores in which the barred experts have the lowest value."""
        return scores_TE if self.barred_E is None else scores_TE.masked_fill(self.barred_E, lowest)

    @abstractmethod
    def probabilities(self, logits_TE: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the probabilities of all experts, which sum to one.

        Args:
            logits_TE: Router logits.
            dtype: What they are computed in.
        """

    def log_probabilities(self, logits_TE: Tensor) -> Tensor:
        """Return the natural logarithm of the probabilities, finite, in float32."""
        return self.probabilities(logits_TE).clamp(min=torch.finfo(torch.float32).tiny).log()

    def choose(self, scores_TE: Tensor, slots: int, *, stable: bool = True) -> Tensor:
        """Return the chosen experts, best first.

        Args:
            scores_TE: Logits, with whatever bias a head has added to them, in float32.
            slots: Experts per token wanted; K unless a head wants more.
            stable: Ties fall towards the lower index; else as ``torch.topk`` lets them fall.
        """
        scores_TE = self.barring(scores_TE, -torch.inf)
        return stable_top_k(scores_TE, slots) if stable else torch.topk(scores_TE, slots, dim=-1).indices

    @abstractmethod
    def stock_choice(self, logits_TE: Tensor, probs_TE: Tensor, slots: int) -> Tensor:
        """Return the chosen experts where no head has changed the scores, ties as the family's own code lets them fall.

        Args:
            logits_TE: Router logits.
            probs_TE: Their probabilities.
            slots: Experts per token wanted.
        """

    @abstractmethod
    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        """Return the weights of the chosen experts, 0 in slots that are not in use.

        Args:
            probs_TE: Probabilities of all experts.
            experts_TK: Chosen experts.
            used_TK: False where a slot is only filled up; ``None`` when every slot is in use.
        """

    def own_weights(
        self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None
    ) -> Tensor:
        """Return the weights that the pretrained router gives to chosen experts.

        Args:
            logits_TE: Router logits.
            probs_TE: Their probabilities.
            experts_TK: Chosen experts.
            used_TK: False where a slot is only filled up; ``None`` when every slot is in use.
        """
        return self.weights(probs_TE, experts_TK, used_TK)

    def total(self, logits_TE: Tensor) -> Tensor | None:
        """Return what ``weights`` of probabilities are to be multiplied by, (T, 1); ``None`` is 1.

        It is the sum of all scores in families that weigh by scores whose sum is not one, as sigmoids.
        """
        return None

    def sums(self, logits_TE: Tensor, experts_TK: Tensor) -> Tensor:
        """Return the sum of the scores of chosen experts, (T, 1), float64: what renormalised weights are divided by."""
        return self.probabilities(logits_TE, torch.float64).gather(-1, experts_TK).sum(-1, keepdim=True)

    @property
    def by_row(self) -> bool:
        """Whether a token gets the same bits whatever other tokens are decided about with it."""
        return True

    @property
    def chooses_by_logits(self) -> bool:
        """Whether the experts of the largest logits are chosen, and probabilities are their softmax."""
        return True

    @property
    def one_total(self) -> bool:
        """Whether the weights of a token have the same sum whatever its logits are."""
        return False

    @property
    def described(self) -> bool:
        """Whether there is a closed form of the weights, which what changes probabilities or the set has to have."""
        return True

    @abstractmethod
    def renormalised(self) -> "ScoringRule":
        """Return the rule whose weights are shares of the chosen experts' probabilities: they sum to one."""

    @abstractmethod
    def raw(self) -> "ScoringRule":
        """Return the rule whose weights are the chosen experts' probabilities as they are."""
