"""Guard: a head acts on a question only if its prompt looks like those of the training split."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.heads.wrapper import WrapperHead
from moe_tune.routing import LayerTable

DIRECTIONS, FEWEST = 128, 30
"""Most directions that have a variance of their own; fewest questions to learn from."""


class Guard(WrapperHead):
    """Lets a head act on a question only if its prompt looks like the training questions; else the pretrained router.

    Formula: it acts where ``d^2 = (x - mu)' Sigma^-1 (x - mu) < q``, ``x`` the router's input of the lowest layer with
    a head, at the last prompt token, which no head has touched. ``Sigma = C + 0.05 tr(C)/D I``, C the covariance of
    ``x`` over two thirds of the sampled training questions; with fewer than 10 D of them only their n/20 leading
    directions (at most 128) have a variance of their own, and the rest share one. ``q`` is a quantile of ``d^2``
    over the other third. The decision is made once and stands for all layers and tokens of a question, and for what
    is generated after it. Evaluations log the share of questions acted on as ``<split>/acting_share``. In training
    it acts on every question, and trains what the inner head would alone; before it is calibrated it acts
    everywhere; it starts where the inner head does. The deeper the lowest layer with a head, the better it tells
    kinds of prompts apart. It knows a kind of prompt, and says nothing of how the others go.

    Args:
        head: The inner head.
        quantile: Share of prompts like the training ones that it is to act on, 0 to 1; at 1 it acts on every prompt,
            at 0 on none.

    Shape:
        - ``guard_centre_D``, ``guard_directions_RD``, ``guard_precisions_R``, ``guard_rest``, ``guard_threshold``:
          frozen buffers of the lowest layer with a head, R = min(D, 128).

    Raises:
        ConfigError: ``quantile`` is outside [0, 1], or fewer than 30 training questions were seen.

    Reference:
        Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples",
        https://arxiv.org/abs/1807.03888, the distance as a score; as a gate of a router this project's. Left out of
        the paper, which was not read for this: class-wise means, input noise and several layers' scores together.
    """

    guard_centre_D: Tensor
    guard_directions_RD: Tensor
    guard_precisions_R: Tensor
    guard_rest: Tensor
    guard_threshold: Tensor

    def __init__(self, head: RouterHead, quantile: float = 0.99) -> None:
        super().__init__(head)
        require(0 <= quantile <= 1, "a share of 0 to 1", quantile, "head.quantile", "the default is 0.99.")
        self.quantile = quantile

    @property
    def traits(self) -> HeadTraits:
        return replace(self.head.traits, needs_calibration=True, foldable=False)

    def bind(self, gate: BaseGate) -> None:
        """Bind the inner head; the lowest layer also gets what the questions are chosen by."""
        super().bind(gate)
        self.decides = gate.first
        if not gate.first:
            return
        width, device = gate.weight_ED.shape[1], gate.weight_ED.device
        directions = min(width, DIRECTIONS)
        shapes = {"centre_D": (width,), "directions_RD": (directions, width), "precisions_R": (directions,), "rest": ()}
        for name, shape in shapes.items():
            self.register_buffer(f"guard_{name}", torch.zeros(shape, dtype=torch.float32, device=device))
        self.register_buffer("guard_threshold", torch.tensor(math.inf, device=device))

    def recognises(self, hidden_QD: Tensor) -> Tensor:
        return self.distance(hidden_QD) < self.guard_threshold

    def distance(self, hidden_QD: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance ``d^2`` of each prompt from the training ones, (Q,)."""
        away_QD = hidden_QD.float() - self.guard_centre_D
        along_QR = away_QD @ self.guard_directions_RD.T
        rest_Q = (away_QD.square().sum(-1) - along_QR.square().sum(-1)).clamp(min=0)
        return (along_QR.square() * self.guard_precisions_R).sum(-1) + rest_Q * self.guard_rest

    def calibrate(self, table: LayerTable) -> None:
        super().calibrate(table)
        if not self.decides:
            return
        questions, width = table.hidden_QD.shape
        where, hint = "head calibration", "raise data.limit_train."
        require(questions >= FEWEST, f"at least {FEWEST} training questions", questions, where, hint)
        mixed_Q = torch.randperm(questions, generator=torch.Generator().manual_seed(0))  # subjects may take turns
        held_Q, learned_Q = mixed_Q[: questions // 3], mixed_Q[questions // 3 :]
        learned_QD = table.hidden_QD[learned_Q].double()
        centre_D = learned_QD.mean(0)
        _, size_R, direction_RD = torch.linalg.svd(learned_QD - centre_D, full_matrices=False)
        variance_R = size_R.square() / (len(learned_QD) - 1)
        total = variance_R.sum()
        own = min(width, DIRECTIONS)
        if len(learned_QD) < 10 * width or own < width:
            own = max(1, min(len(learned_QD) // 20, own))
        ridge = 0.05 * total / width
        rest = (total - variance_R[:own].sum()).clamp(min=0) / max(1, width - own) + ridge
        self.guard_centre_D.copy_(centre_D)
        for kept, value in (
            (self.guard_directions_RD, direction_RD[:own]),
            (self.guard_precisions_R, 1 / (variance_R[:own] + ridge)),
        ):
            kept.zero_()[:own].copy_(value)
        self.guard_rest.copy_(1 / rest if own < width else torch.zeros_like(rest))
        unseen_Q = self.distance(table.hidden_QD[held_Q])
        ends = {0.0: 0.0, 1.0: math.inf}
        self.guard_threshold.copy_(torch.tensor(ends.get(self.quantile, float(unseen_Q.quantile(self.quantile)))))

    def router_weight(self, weight_ED: Tensor) -> None:
        """Return no weight: which one routes depends on the prompt."""
