"""A routing decision in the making: what the stages of a head read and return changed."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_tune.routing.scoring_rule import ScoringRule


@dataclass(frozen=True, slots=True)
class Decision:
    """A routing decision in the making: what the weighing stage of a head reads and returns changed.

    ``weights = rule(probabilities) * scale``, so that heads compose whatever their order.

    Args:
        rule: The family's scoring rule.
        logits_TE: Router logits after the scoring stage.
        probs_TE: Probabilities of all experts.
        experts_TK: Chosen experts, best first.
        scale_TK: Factor on the rule's weights; ``None`` is 1.
        used_TK: False where a slot is only filled up (weight 0); ``None`` when every slot is in use.
        weighing_TE: Logits that the weights are computed of; ``None`` are those of the choice.
        own: Whether the probabilities are those the rule itself gives to the logits.
        given_TK: Weights in the place of the rule's; ``None`` are the rule's.
    """

    rule: ScoringRule
    logits_TE: Tensor
    probs_TE: Tensor
    experts_TK: Tensor
    scale_TK: Tensor | None = None
    used_TK: Tensor | None = None
    weighing_TE: Tensor | None = None
    own: bool = True
    given_TK: Tensor | None = None

    @property
    def weights_TK(self) -> Tensor:
        """The chosen experts' weights, float32."""
        if self.given_TK is not None:
            return self.given_TK if self.scale_TK is None else self.given_TK * self.scale_TK
        logits_TE = self.logits_TE if self.weighing_TE is None else self.weighing_TE
        if self.own:
            weights_TK = self.rule.own_weights(logits_TE, self.probs_TE, self.experts_TK, self.used_TK)
        else:
            weights_TK = self.rule.weights(self.probs_TE, self.experts_TK, self.used_TK)
            total_T1 = self.rule.total(logits_TE)
            weights_TK = weights_TK if total_T1 is None else weights_TK * total_T1
        return weights_TK if self.scale_TK is None else weights_TK * self.scale_TK

    def with_probabilities(self, probs_TE: Tensor) -> "Decision":
        """Return the decision with other probabilities; the weights follow by the family's rule."""
        return replace(self, probs_TE=probs_TE, own=False)

    def weighed_by(self, logits_TE: Tensor) -> "Decision":
        """Return the decision with the weights, and the probabilities, that the family's rule gives to other logits."""
        return replace(self, probs_TE=self.rule.probabilities(logits_TE), weighing_TE=logits_TE, own=True)

    def with_scores(self, scores_TE: Tensor) -> "Decision":
        """Return the decision with scores in place of probabilities: they are the weights themselves, times the scale.

        Args:
            scores_TE: Scores of all experts, at least 0; the recorded probabilities are their shares of the sum.
        """
        floor = torch.finfo(scores_TE.dtype).tiny  # where every score is 0, the experts share alike
        total_T1 = scores_TE.sum(-1, keepdim=True)
        probs_TE = torch.where(total_T1 > floor, scores_TE / total_T1.clamp(min=floor), 1 / scores_TE.shape[-1])
        return replace(self, rule=self.rule.raw(), probs_TE=probs_TE, own=False).scaled(total_T1)

    def given(self, experts_TK: Tensor, weights_TK: Tensor, used_TK: Tensor | None = None) -> "Decision":
        """Return the decision with experts and weights that do not follow from its logits, as they are.

        Args:
            experts_TK: Experts.
            weights_TK: Their weights.
            used_TK: False where a slot is only filled up; ``None`` when every slot is in use.
        """
        return replace(self, experts_TK=experts_TK, used_TK=used_TK, given_TK=weights_TK, scale_TK=None)

    def scaled(self, factor_TK: Tensor) -> "Decision":
        """Return the decision with its weights multiplied by a factor.

        Args:
            factor_TK: Factor, (T, K) or (T, 1).
        """
        factor_TK = factor_TK.expand(self.experts_TK.shape)
        return replace(self, scale_TK=factor_TK if self.scale_TK is None else self.scale_TK * factor_TK)
