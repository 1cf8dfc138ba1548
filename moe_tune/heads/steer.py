"""Steering: force the experts that go with correct answers in, and those that go with wrong ones out."""

import math

import numpy as np
import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import LayerTable, stable_top_k
from moe_tune.stats.accuracy_estimates import risk_difference


class SteerHead(RouterHead):
    """Puts a few experts of each layer above all others and a few below, by how often they see correct answers.

    Formula: ``z_i = max_j z_j + eps`` for promoted experts and ``min_j z_j - eps`` for suppressed ones, over the
    unchanged ``z``; then softmax and top-K as ever. (The paper writes ``log softmax(z)`` for ``z``: the same
    probabilities, here without moving the other logits.) The experts come from the risk difference ``D_i = n1_i / N1 -
    n2_i / N2`` over the training questions, group 1 answered correctly and group 2 not: promoted are those with the
    largest ``D_i > 0``, suppressed those with the smallest ``D_i < 0``, ties towards the lower index.

    Args:
        promote: Experts promoted per layer, 0 to K.
        suppress: Experts suppressed per layer, 0 to E - K.
        eps: Distance from the largest and the smallest logit, > 0.

    Shape:
        - ``promoted_E``, ``suppressed_E``: (E,), frozen buffers of truth values; both empty is the pretrained router.

    Raises:
        ConfigError: A number of experts is out of range, or ``eps`` is not above 0.

    Reference:
        Fayyaz et al. 2025, "SteerMoE", https://arxiv.org/abs/2509.09660; correct against wrong as the two groups, and
        the choice per layer, are this project's.
    """

    promoted_E: Tensor
    suppressed_E: Tensor

    def __init__(self, promote: int = 1, suppress: int = 1, eps: float = 0.01) -> None:
        super().__init__()
        for key, value in (("promote", promote), ("suppress", suppress)):
            require(value >= 0, "at least 0 experts", value, f"head.{key}", "0 leaves them out.")
        require(0 < eps < math.inf, "a distance above 0", eps, "head.eps", "the default is 0.01.")
        self.promote, self.suppress, self.eps = promote, suppress, eps

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(needs_calibration=self.promote + self.suppress > 0, chosen_by_logits=True)

    def bind(self, gate: BaseGate) -> None:
        """Start with no expert steered.

        Raises:
            ConfigError: More experts are promoted than chosen, or too few are left to choose from.
        """
        rule = gate.rule
        left = rule.num_experts - rule.top_k
        for key, value, most in (("promote", self.promote, rule.top_k), ("suppress", self.suppress, left)):
            hint = f"a token has {rule.top_k} of {rule.num_experts}: steer fewer."
            require(value <= most, f"at most {most} experts", value, f"head.{key}", hint)
        for name in ("promoted_E", "suppressed_E"):
            none_E = torch.zeros(rule.num_experts, dtype=torch.bool, device=gate.weight_ED.device)
            self.register_buffer(name, none_E)

    def calibrate(self, table: LayerTable) -> None:
        correct_E, chosen_E = table.correct_E.cpu().numpy(), table.chosen_E.cpu().numpy()
        difference_E = risk_difference(correct_E, chosen_E, int(table.right_S.sum()), int(table.asked_S.sum()))
        # NaN where all or none are answered correctly: nobody goes with either.
        known_E = torch.from_numpy(np.nan_to_num(difference_E))
        self.promoted_E.copy_(most_above_zero(known_E, self.promote))
        self.suppressed_E.copy_(most_above_zero(-known_E, self.suppress))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        """Move the logits of the steered experts, in float32: half precision may round ``eps`` away."""
        z_TE = logits_TE.float()
        above_T1 = z_TE.amax(-1, keepdim=True) + self.eps
        below_T1 = z_TE.amin(-1, keepdim=True) - self.eps
        return torch.where(self.promoted_E, above_T1, torch.where(self.suppressed_E, below_T1, z_TE))


def most_above_zero(values_E: Tensor, count: int) -> Tensor:
    """Return which experts have the largest values among those above 0, ties towards the lower index.

    Args:
        values_E: One value per expert.
        count: How many at most.

    Example:
        >>> most_above_zero(torch.tensor([0.2, -0.1, 0.3, 0.2]), 2).tolist()
        [True, False, True, False]
    """
    chosen_E = torch.zeros_like(values_E, dtype=torch.bool)
    chosen_E[stable_top_k(values_E[None], count)[0]] = True
    return chosen_E & (values_E > 0)
