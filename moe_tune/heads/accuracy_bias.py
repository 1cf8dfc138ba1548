"""Accuracy-biased gating: lean towards the experts whose training questions were answered correctly."""

import math
from typing import Literal

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, LayerTable, StockRouter
from moe_tune.stats.shrinkage import moment_weight, surplus_scores


class AccuracyBiasHead(RouterHead):
    r"""Biases the gate towards experts that did better on the training split, after shrinking noisy accuracies.

    Formula: ``A_i = (r_i + k A) / (n_i + k)`` with ``n_i`` the training questions whose answer token chose expert i,
    ``r_i`` the correct ones and ``A = sum r / sum n``; ``b_i = clip(beta (A_i - A) / sd(A_i), -b_max, b_max)``, zero
    where ``n_i < n_min`` and everywhere when the sd over the other experts is below 1e-8. Modes: ``logit`` selects and
    weighs from ``z + b``; ``select`` selects from ``z + b`` and weighs from ``z``; ``weight`` keeps the choice and uses
    ``w_i e^{b_i} (m / m')`` with the mass ``m = sum_S w`` kept. All three ignore a constant added to ``b``. Adjusted by
    subject, ``A_i = A + n_i / (n_i + k) sum_s (n_is / n_i) (acc_is - acc_s)`` with ``acc_s`` the accuracy in a subject
    over the same choices: an expert of easy subjects is no better for that; with one subject it is the formula above.

    Args:
        mode: Where the bias enters: ``logit``, ``select`` or ``weight``.
        beta: Bias per standard deviation of accuracy, in nats; 0 is the pretrained router.
        b_max: Largest bias, > 0, in nats.
        n_min: Experts chosen by fewer training questions than this get no bias.
        shrinkage: Pseudo-count k that pulls an expert's accuracy to the layer's; ``null`` fits it to the layer by the
            beta-binomial method of moments (all experts alike gives no bias at all).
        adjust: ``none``, or ``subject`` to compare each expert with the accuracy of the subjects it serves.
        refresh: Fit the bias ``once``, or again before every later ``epoch``, from choices and answers with the heads
            as they are then, this bias included.

    Shape:
        - ``bias_E``: (E,), a frozen buffer.

    Raises:
        ConfigError: ``b_max`` is not above 0, ``beta`` is not finite, or ``n_min`` or ``shrinkage`` is below 0.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (the suggestion); the formula is this project's.
    """

    bias_E: Tensor

    def __init__(
        self,
        mode: Literal["logit", "select", "weight"] = "logit",
        beta: float = 0.25,
        b_max: float = 1.0,
        n_min: int = 30,
        shrinkage: float | None = None,
        adjust: Literal["none", "subject"] = "none",
        refresh: Literal["once", "epoch"] = "once",
    ) -> None:
        super().__init__()
        require(b_max > 0, "a bound above 0", b_max, "head.b_max", "the default is 1.0.")
        require(math.isfinite(beta), "a finite number", beta, "head.beta", "the default is 0.25.")
        require(n_min >= 0, "questions from 0", n_min, "head.n_min", "the default is 30.")
        fitted = shrinkage is None or shrinkage >= 0
        require(fitted, "a pseudo-count of at least 0", shrinkage, "head.shrinkage", "null fits it.")
        self.mode, self.beta, self.b_max, self.n_min, self.shrinkage = mode, beta, b_max, n_min, shrinkage
        self.adjust, self.refresh = adjust, refresh

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(needs_calibration=True, keeps_mass=self.mode != "logit", refreshes=self.refresh == "epoch")

    def bind(self, gate: BaseGate) -> None:
        self.register_buffer("bias_E", torch.zeros(gate.rule.num_experts, device=gate.weight_ED.device))

    def calibrate(self, table: LayerTable) -> None:
        expected_E = expected_correct(table.chosen_ES, table.correct_ES) if self.adjust == "subject" else None
        how = (self.beta, self.b_max, self.n_min, self.shrinkage, expected_E)
        self.bias_E.copy_(accuracy_bias(table.chosen_E, table.correct_E, *how))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        return logits_TE + self.bias_E.to(logits_TE.dtype) if self.mode == "logit" else logits_TE

    def select(self, scores_TE: Tensor) -> Tensor:
        return scores_TE + self.bias_E if self.mode == "select" else scores_TE

    def changes_selection(self) -> bool:
        """Only mode ``select`` ranks by something other than the logits."""
        return self.mode == "select"

    def changes_weights(self) -> bool:
        """Only mode ``weight`` weighs by something other than the probabilities."""
        return self.mode == "weight"

    def fold(self, router: StockRouter) -> StockRouter:
        """Fold a bias of the logits into the gate's own; where no expert has a bias, in any mode, nothing changes."""
        if not self.bias_E.any():
            return router
        return router.shifted(self.bias_E, type(self).__name__) if self.mode == "logit" else super().fold(router)

    def weigh(self, decision: Decision) -> Decision:
        """Scale the chosen experts' weights by ``e^b`` at unchanged mass in mode ``weight``."""
        if self.mode != "weight":
            return decision
        factor_TK = self.bias_E[decision.experts_TK].exp()
        weights_TK = decision.weights_TK
        floor = torch.finfo(weights_TK.dtype).tiny  # a token may have no expert at all, behind a head of variable k
        biased_T1 = (weights_TK * factor_TK).sum(-1, keepdim=True)
        mass_T1 = torch.where(biased_T1 > floor, weights_TK.sum(-1, keepdim=True) / biased_T1.clamp(min=floor), 1.0)
        return decision.scaled(factor_TK * mass_T1)


def accuracy_bias(
    chosen_E: Tensor,
    correct_E: Tensor,
    beta: float,
    b_max: float,
    n_min: int,
    shrinkage: float | None,
    expected_E: Tensor | None = None,
) -> Tensor:
    """Return the bias of each expert from its counts; the formula stands in ``AccuracyBiasHead``.

    Args:
        chosen_E: Questions routed to each expert.
        correct_E: Those answered correctly.
        beta: Nats per standard deviation.
        b_max: Largest bias in nats.
        n_min: Fewest questions for a bias.
        shrinkage: Pseudo-count, or ``None`` to fit it.
        expected_E: Correct answers an expert would have were it no better than others; ``None`` for ``n_i A``.

    Example:
        >>> accuracy_bias(torch.tensor([100, 100]), torch.tensor([90, 10]), 0.25, 1.0, 30, 50.0)
        tensor([ 0.2500, -0.2500])
    """
    chosen, correct = chosen_E.cpu().numpy(), correct_E.cpu().numpy()
    k = moment_weight(correct, chosen) if shrinkage is None else shrinkage
    if k is None:
        return torch.zeros_like(chosen_E, dtype=torch.float32)
    expected = None if expected_E is None else expected_E.cpu().numpy()
    score_E = torch.from_numpy(surplus_scores(correct, chosen, n_min, k, expected))
    return (beta * score_E).clamp(-b_max, b_max).float()


def expected_correct(chosen_ES: Tensor, correct_ES: Tensor) -> Tensor:
    """Return the correct answers of each expert if it did as all do in its subjects, ``sum_s n_is acc_s``.

    Shape:
        - returns (E,), float64.

    Example:
        >>> chosen_ES = torch.tensor([[10, 0], [10, 20]])
        >>> expected_correct(chosen_ES, torch.tensor([[8, 0], [6, 10]])).tolist()
        [7.0, 17.0]
    """
    chosen, correct = chosen_ES.double(), correct_ES.double()
    accuracy_S = correct.sum(0) / chosen.sum(0).clamp(min=1)
    return chosen @ accuracy_S
