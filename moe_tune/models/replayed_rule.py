"""The scoring rule of any family: its own gate's code decides, a closed form gives the probabilities."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from moe_tune.base.errors import ModelError
from moe_tune.models.gate_replay import GateReplay
from moe_tune.routing.closed_form import ClosedForm
from moe_tune.routing.scoring_rule import ScoringRule


@dataclass(frozen=True, slots=True)
class ReplayedRule(ScoringRule):
    """Lets a stock gate's own code choose and weigh, whatever the logits.

    Probabilities are shares of the closed form's scores: ``p_i = s_i / sum_E s``. Where no form fits, they are the
    softmax of the logits, for the record only, and nothing may weigh by them.

    Args:
        top_k: Experts per token, K.
        num_experts: Experts of the layer, E.
        replay: The layer's gate.
        form: How it weighs, as far as a closed form says it.
        by_logits: Whether the experts of the largest logits are chosen, and probabilities are their softmax.
        weighs: Whether the gate's own code weighs a full set; a form that a head has changed does not ask it.
    """

    replay: GateReplay = field(compare=False)
    form: ClosedForm | None
    weighs: bool = True
    by_logits: bool = True

    @property
    def chooses_by_logits(self) -> bool:
        return self.by_logits

    @property
    def by_row(self) -> bool:
        return False

    @property
    def one_total(self) -> bool:
        return self.form is not None and self.form.renormalise and len(self.form.factor_E) == 1

    @property
    def described(self) -> bool:
        return self.form is not None

    def left_by(self, barred_E: Tensor) -> int:
        groups = self.replay.groups
        return super(ReplayedRule, self).left_by(barred_E) if groups is None else groups.left_by(barred_E)

    def probabilities(self, logits_TE: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.form is None or self.form.score == "softmax":
            return torch.softmax(logits_TE, dim=-1, dtype=dtype)
        scores_TE = self.form.scores(logits_TE, dtype)
        return scores_TE / scores_TE.sum(-1, keepdim=True)

    def choose(self, scores_TE: Tensor, slots: int, *, stable: bool = True) -> Tensor:
        return self.replay.choose(scores_TE, slots, stable=stable, barred_E=self.barred_E)

    def stock_choice(self, logits_TE: Tensor, probs_TE: Tensor, slots: int) -> Tensor:
        return self.replay.choose(logits_TE, slots, stable=False, barred_E=self.barred_E)

    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        return self._form.weights(probs_TE, experts_TK, used_TK)

    def total(self, logits_TE: Tensor) -> Tensor | None:
        return self._form.total(logits_TE) if self.weighs else None

    def sums(self, logits_TE: Tensor, experts_TK: Tensor) -> Tensor:
        return self._form.scores(logits_TE, torch.float64).gather(-1, experts_TK).sum(-1, keepdim=True)

    def own_weights(
        self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None
    ) -> Tensor:
        if self.weighs and used_TK is None:
            return self.replay.weigh(logits_TE, experts_TK, self.barred_E)
        weights_TK, total_T1 = self.weights(probs_TE, experts_TK, used_TK), self.total(logits_TE)
        return weights_TK if total_T1 is None else weights_TK * total_T1

    def renormalised(self) -> "ReplayedRule":
        return replace(self, form=ClosedForm(self._form.score, renormalise=True), weighs=False)

    def raw(self) -> "ReplayedRule":
        return replace(self, form=ClosedForm(self._form.score, renormalise=False), weighs=False)

    @property
    def _form(self) -> ClosedForm:
        if self.form is None:
            raise ModelError(
                f"expected a router that weighs in a closed form but {type(self.replay.gate).__name__} has one of its "
                "own. Hint: heads that change its logits alone can be used."
            )
        return self.form
