"""Neighbour mix: route a question partly as training questions are that are like it and were answered correctly."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import LayerTable, ScoringRule

REFERENCES = 1024
"""Most training questions that are kept: as many as a table samples."""
ITSELF = 1e-6
"""Squared distance below which a question is itself, or a copy."""


class NeighbourMixHead(RouterHead):
    r"""Mixes the gate of a question with those of the nearest training questions that were answered correctly.

    Formula: ``p' = alpha p + (1 - alpha) sum_j k_j p_j / sum_j k_j``, ``S = topK(p')``, weights by the family's rule
    from ``p'``; j are the nearest of the sampled training questions that the pretrained router answers correctly, at
    the answer position of the same layer, ``k_j = exp(-d_j^2 / 2 s^2)``, ``s`` the median distance among them to the
    last neighbour. ``d^2 = 2 (1 - cos)`` of the router's inputs, less their mean. With ``core`` only so many experts
    with the largest p are mixed, and keep their mass. Until it is calibrated, and with ``alpha`` 1, it is the
    pretrained router to the last bit. A question at no distance is the question itself, and is left out. It is meant
    for scope ``answer``: the references are answer tokens.

    Args:
        alpha: Share of the question's own gate, 0 to 1; choose 0 or 0.5 on validation.
        neighbours: Training questions that are mixed in, at least 1.
        core: Experts that are mixed, at least 1; ``null`` for all; 20 is the published number.

    Shape:
        - ``known_RD``, ``known_RE``: input and probabilities of the references, R = 1024 at most, frozen buffers.
        - output ``logits_TE``: (T, E), ``log p'``.

    Raises:
        ConfigError: ``alpha`` is outside [0, 1], or a number is below 1.

    Reference:
        Li et al. 2025, "C3PO", https://arxiv.org/abs/2504.07964. Its released code has no gradient form, nor has this:
        it replaces the gate (alpha 0) of the last five layers by three neighbours' of a MiniLM text embedding, at every
        decoded token. Here the router's own input stands in for the embedding, layer by layer, so that nothing but the
        answer token is computed; the gradient over neighbours' losses is left out.
    """

    centre_D: Tensor
    known_RD: Tensor
    known_RE: Tensor
    scale: Tensor
    present_R: Tensor

    def __init__(self, alpha: float = 0.5, neighbours: int = 3, core: int | None = None) -> None:
        super().__init__()
        require(0 <= alpha <= 1, "a share of 0 to 1", alpha, "head.alpha", "the default is 0.5.")
        require(neighbours >= 1, "at least 1 neighbour", neighbours, "head.neighbours", "the default is 3.")
        require(core is None or core >= 1, "at least 1 expert", core, "head.core", "null mixes all.")
        self.alpha, self.neighbours, self.core = alpha, neighbours, core

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(needs_calibration=True, chosen_by_logits=True)

    def bind(self, gate: BaseGate) -> None:
        self.rule: ScoringRule = gate.rule
        experts, width = gate.weight_ED.shape
        sizes = {"centre_D": (width,), "known_RD": (REFERENCES, width), "known_RE": (REFERENCES, experts), "scale": ()}
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float32, device=gate.weight_ED.device))
        present_R = torch.zeros(REFERENCES, dtype=torch.bool, device=gate.weight_ED.device)
        self.register_buffer("present_R", present_R)

    def calibrate(self, table: LayerTable) -> None:
        right_Q = table.correct_Q.nonzero().squeeze(-1)[:REFERENCES]
        count = len(right_Q)
        for buffer in (self.centre_D, self.known_RD, self.known_RE, self.scale, self.present_R):
            buffer.zero_()
        if not count:
            return
        self.centre_D.copy_(table.hidden_QD.mean(0))
        self.known_RD[:count] = self._direction(table.hidden_QD[right_Q])
        self.known_RE[:count] = self.rule.probabilities(table.logits_QE[right_Q])
        self.present_R[:count] = True
        squared_RN, _ = self._nearest(table.hidden_QD[right_Q])
        last_R = squared_RN[:, -1][squared_RN[:, -1].isfinite()].sqrt()
        self.scale.copy_(last_R.median() if len(last_R) else torch.ones(()))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        if self.alpha == 1:
            return logits_TE
        squared_TN, near_TN = self._nearest(hidden_TD)
        close_TN = (-squared_TN / (2 * self.scale.square()).clamp(min=torch.finfo(torch.float32).tiny)).exp()
        sum_T1 = close_TN.sum(-1, keepdim=True)
        share_TN = close_TN / sum_T1.clamp(min=torch.finfo(torch.float32).tiny)
        theirs_TE = (share_TN[..., None] * self.known_RE[near_TN]).sum(1)
        own_TE = self.rule.probabilities(logits_TE)
        mixed_TE = self.alpha * own_TE + (1 - self.alpha) * theirs_TE
        if self.core is not None and self.core < own_TE.shape[-1]:
            inside_TE = torch.zeros_like(own_TE).scatter(-1, self.rule.choose(logits_TE.float(), self.core), 1.0) > 0
            kept_T1 = torch.where(inside_TE, own_TE, 0.0).sum(-1, keepdim=True)
            came_T1 = torch.where(inside_TE, mixed_TE, 0.0).sum(-1, keepdim=True)
            floor = torch.finfo(torch.float32).tiny
            mixed_TE = torch.where(inside_TE, mixed_TE * kept_T1 / came_T1.clamp(min=floor), own_TE)
        log_TE = mixed_TE.clamp(min=torch.finfo(torch.float32).tiny).log()
        return torch.where(sum_T1 > 0, log_TE, logits_TE.float()).to(self._dtype(logits_TE))

    def _dtype(self, logits_TE: Tensor) -> torch.dtype:
        """Return the dtype of the logits; half precision keeps its own only where nothing is changed."""
        return torch.float32 if self.present_R.any() else logits_TE.dtype

    def _direction(self, hidden_TD: Tensor) -> Tensor:
        return functional.normalize(hidden_TD.float() - self.centre_D, dim=-1)

    def _nearest(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared distances and rows of the nearest references, infinite where there is none, (T, N)."""
        squared_TR = 2 * (1 - self._direction(hidden_TD) @ self.known_RD.T)
        squared_TR = squared_TR.masked_fill(~self.present_R | (squared_TR < ITSELF), torch.inf)
        nearest = squared_TR.topk(min(self.neighbours, REFERENCES), largest=False)
        return nearest.values, nearest.indices
