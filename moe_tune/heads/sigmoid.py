"""Sigmoid gating: every expert is scored on its own, and the chosen scores share out a fixed mass."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, LayerTable, ScoringRule

Score = Literal["sigmoid", "sqrt_softplus"]


class SigmoidHead(RouterHead):
    r"""Weighs the chosen experts by scores that do not compete in a softmax, warm-started to the pretrained weights.

    Formula: ``s = sigmoid(a z + c) + 1e-7`` or ``s = sqrt(softplus(a z + c) + 1e-14)``; ``S = topK(z)`` unchanged;
    ``w = rho s_S / sum_S s``. Calibration sets ``rho`` to the mean over training questions of ``sum_S w0``, with ``w0``
    the pretrained weights (``p_S``; where the family renormalises, ``p_S / sum_S p`` and so ``rho = 1``), and ``a``,
    ``c`` to the minimum of ``sum_t sum_S (rho s_i / sum_S s - w0_i)^2``. ``a = exp(log_a)`` and ``c`` are then trained.

    Args:
        score: The score of an expert: ``sigmoid`` or ``sqrt_softplus``.

    Shape:
        - ``log_a``, ``c``: scalars, trained; ``rho``: a scalar buffer.
        - ``weights_TK``: (T, K).

    Raises:
        ConfigError: The score is unknown.

    Reference:
        DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", https://arxiv.org/abs/2412.19437; the warm start is this
        project's, and so is ``a z + c``.
    """

    log_a: nn.Parameter
    c: nn.Parameter
    rho: Tensor
    traits = HeadTraits(
        trainable=True,
        needs_calibration=True,
        exact_start=False,
        replaces_probabilities=True,
        replaces_weights=True,
        reason="a sigmoid's weights are only fitted to the softmax's",
    )

    def __init__(self, score: Score = "sigmoid") -> None:
        super().__init__()
        require(score in ("sigmoid", "sqrt_softplus"), "sigmoid or sqrt_softplus", score, "head.score", "try sigmoid.")
        self.kind: Score = score

    def bind(self, gate: BaseGate) -> None:
        self.rule = gate.rule
        device = gate.weight_ED.device
        self.log_a = nn.Parameter(torch.zeros((), dtype=torch.float32, device=device))
        self.c = nn.Parameter(torch.zeros((), dtype=torch.float32, device=device))
        self.register_buffer("rho", torch.ones((), dtype=torch.float32, device=device))

    @torch.no_grad()
    def calibrate(self, table: LayerTable) -> None:
        logits_QK, weights_QK = pretrained_choice(table.logits_QE, self.rule)
        rho = float(weights_QK.sum(-1).mean())
        log_a, c = fitted_affine(logits_QK, weights_QK, rho, self.kind)
        self.rho.fill_(rho)
        self.log_a.fill_(log_a)
        self.c.fill_(c)

    def weigh(self, decision: Decision) -> Decision:
        scores_TE = expert_scores(self.log_a.exp() * decision.logits_TE.float() + self.c, self.kind)
        scored = decision.with_scores(scores_TE)
        chosen_TK = scores_TE.gather(-1, decision.experts_TK)
        if decision.used_TK is not None:
            chosen_TK = torch.where(decision.used_TK, chosen_TK, 0.0)
        floor = torch.finfo(chosen_TK.dtype).tiny  # where no expert is used at all
        return scored.scaled(self.rho / chosen_TK.sum(-1, keepdim=True).clamp(min=floor))


def expert_scores(logits: Tensor, kind: Score) -> Tensor:
    """Return an expert's score, at least 1e-7; increasing in its logit.

    Example:
        >>> expert_scores(torch.tensor([0.0]), "sigmoid")
        tensor([0.5000])
    """
    if kind == "sigmoid":
        return torch.sigmoid(logits) + 1e-7
    return torch.sqrt(functional.softplus(logits) + 1e-14)  # within the root: its slope at 0 would be infinite


def pretrained_choice(logits_QE: Tensor, rule: ScoringRule) -> tuple[Tensor, Tensor]:
    """Return logits and weights of the experts the pretrained router chooses, in float64.

    Shape:
        - returns (Q, K) twice.
    """
    experts_QK = rule.choose(logits_QE, rule.top_k)
    weights_QK = rule.own_weights(logits_QE, rule.probabilities(logits_QE, torch.float64), experts_QK)
    return logits_QE.double().gather(-1, experts_QK), weights_QK


def fitted_affine(logits_QK: Tensor, weights_QK: Tensor, rho: float, kind: Score) -> tuple[float, float]:
    """Return ``(ln a, c)`` that minimise ``sum (rho s_i / sum_S s - w_i)^2``, the same on every run.

    Args:
        logits_QK: Logits of the chosen experts.
        weights_QK: Their pretrained weights.
        rho: Mass to share out, > 0.
        kind: The score.
    """

    def misfit(x: NDArray[np.float64]) -> NDArray[np.float64]:
        scores_QK = expert_scores(float(np.exp(x[0])) * logits_QK.cpu() + float(x[1]), kind)
        shares_QK = rho * scores_QK / scores_QK.sum(-1, keepdim=True)
        gap: NDArray[np.float64] = (shares_QK - weights_QK.cpu()).flatten().numpy()
        return gap

    # Far below 0 both scores are plain exponentials, whatever the shift, so that the valley has no end; ten is far.
    fit = least_squares(misfit, x0=np.zeros(2), bounds=([-5.0, -10.0], [5.0, 10.0]), xtol=1e-10, ftol=1e-12, gtol=1e-12)
    return float(fit.x[0]), float(fit.x[1])
