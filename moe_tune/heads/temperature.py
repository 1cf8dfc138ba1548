"""Temperature: sharpen or flatten the gate's weights without changing which experts are chosen."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.base.schedule import ScheduleKind, scheduled
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, StockRouter, unfoldable


class TemperatureHead(RouterHead):
    r"""Sharpens (tau < 1) or flattens (tau > 1) the weights of the chosen experts; the choice itself never changes.

    Formula: ``p = softmax(z / tau)``, ``S = topK(z)``. With ``mass`` raw, ``w = p[S]``; preserved,
    ``w = p[S] * sum_S softmax(z) / sum_S p``, so that the layer's output keeps its scale. Learned, ``tau = exp(theta)``
    with one ``theta`` per layer, or per expert: ``p_i`` is then the softmax of ``z_i / tau_i``, which ranks the chosen
    experts anew and, unlike one temperature, depends on a constant added to all logits.

    Args:
        tau: Temperature, > 0; 1 is the pretrained router.
        mode: ``fixed`` keeps ``tau``; ``learned`` trains it from ``tau``; ``scheduled`` moves it to ``tau_end``.
        tau_end: Temperature at the end of training when scheduled, > 0.
        schedule: Shape of the way from ``tau`` to ``tau_end``.
        mass: ``raw`` or ``preserved`` (no gradient is stopped in it: the sign of the gradient of tau needs both sums).
        per: One temperature for the ``layer``, or one for each ``expert`` (they part only where they are learned).

    Shape:
        - ``logits_TE``: (T, E); ``weights_TK``: (T, K).
        - ``theta``: a scalar, or (E,) per expert.

    Raises:
        ConfigError: A temperature is not above 0.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (near-uniform gate weights, which this sharpens).

    Example:
        >>> TemperatureHead(tau=0.5).traits.exact_start
        False
    """

    theta: Tensor

    def __init__(
        self,
        tau: float = 1.0,
        mode: Literal["fixed", "learned", "scheduled"] = "fixed",
        tau_end: float = 1.0,
        schedule: ScheduleKind = "linear",
        mass: Literal["raw", "preserved"] = "preserved",
        per: Literal["layer", "expert"] = "layer",
    ) -> None:
        super().__init__()
        for key, value in (("tau", tau), ("tau_end", tau_end)):
            require(0 < value < math.inf, "a temperature above 0", value, f"head.{key}", "try 0.5.")
        self.tau, self.mode, self.tau_end, self.schedule, self.mass = tau, mode, tau_end, schedule, mass
        self.per = per

    @property
    def traits(self) -> HeadTraits:
        exact = self.tau == 1.0
        return HeadTraits(
            trainable=self.mode == "learned",
            exact_start=exact,
            replaces_probabilities=True,
            keeps_mass=self.mass == "preserved",
            reason="" if exact else f"tau starts at {self.tau}",
        )

    def bind(self, gate: BaseGate) -> None:
        shape = (gate.rule.num_experts,) if self.per == "expert" else ()
        theta = torch.full(shape, math.log(self.tau), dtype=torch.float32, device=gate.weight_ED.device)
        if self.mode == "learned":
            self.theta = nn.Parameter(theta)
        else:
            self.register_buffer("theta", theta)

    def set_progress(self, progress: float) -> None:
        if self.mode == "scheduled":
            self.theta.fill_(math.log(scheduled(self.schedule, self.tau, self.tau_end, progress)))

    def weigh(self, decision: Decision) -> Decision:
        tempered = decision.weighed_by(decision.logits_TE.float() / self.theta.exp())
        if self.mass == "raw":
            return tempered
        return tempered.scaled(decision.weights_TK.sum(-1, keepdim=True) / tempered.weights_TK.sum(-1, keepdim=True))

    def fold(self, router: StockRouter) -> StockRouter:
        """Fold one temperature into the weight, ``W / tau``, where the weights of a token are free to sum to another.

        Raises:
            ConfigError: The mass is preserved in a family whose weights have no fixed sum, or experts' temperatures
                differ.
        """
        if not self.theta.any():
            return router
        name, tau_E = type(self).__name__, self.theta.detach().exp().reshape(-1)
        if bool((tau_E != tau_E[0]).any()):
            raise unfoldable(name, "temperatures of single experts weigh by other logits than those that choose")
        if self.mass == "preserved" and not router.rule.one_total:
            raise unfoldable(
                name, "mass: preserved rescales each token's weights, which W / tau does not; mass: raw folds"
            )
        return router.tempered(float(tau_E[0]), name)
