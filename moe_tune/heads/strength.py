"""Strength: how far a head moves the logits, from the pretrained router to its own."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.wrapper import WrapperHead
from moe_tune.routing import StockRouter


class Strength(WrapperHead):
    """Takes only a part of what a head does to the logits: one trained router gives a whole curve of gain against loss.

    Formula: ``z = (1 - a) z_0 + a z_1``, ``z_0`` the logits the head is given and ``z_1`` those it makes of them. With
    a = 0 they are ``z_0`` to the last bit, with a = 1 ``z_1``. For a head that is a router weight it is the weight
    between the two. A checkpoint of the inner head is one of this: ``grid --ckpt_path RUN.ckpt --config
    configs/head/strength.yaml --vary model.head.strength=0,0.5,1`` evaluates many strengths in one pass. Choose the
    strength on validation. It starts where the inner head does.

    Args:
        head: The inner head, which changes logits alone; a part that acts in the gradient alone may be with it.
        strength: a, at least 0; above 1 it goes beyond the inner head.

    Shape:
        - output ``logits_TE``: (T, E).

    Raises:
        ConfigError: ``strength`` is below 0 or not finite, or the inner head changes more than logits.

    Reference:
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), https://arxiv.org/abs/2109.01903, the
        idea of weights between two models; on routers, and on logits, this project's. The paper was not read for this,
        and no code of its authors was run: its sweep over whole models is left out.
    """

    def __init__(self, head: RouterHead, strength: float = 1.0) -> None:
        super().__init__(head)
        require(0 <= strength < math.inf, "a strength of at least 0", strength, "head.strength", "try 0.5.")
        more = head.changes_selection() or head.changes_weights() or head.traits.variable_k or head.bars_experts()
        hint = "in a Stack, put Strength around the part that changes logits."
        require(not more, "a head that changes logits alone", type(head).__name__, "head.head", hint)
        self.strength = strength

    @property
    def traits(self) -> HeadTraits:
        inner = self.head.traits
        if self.strength:
            return inner
        return replace(inner, exact_start=True, replaces_logits=False, reason="")

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        if not self.strength:
            return logits_TE
        own_TE = self.head.score(hidden_TD, logits_TE)
        return torch.lerp(logits_TE.to(own_TE.dtype), own_TE, self.strength)  # exact where both agree, and at a = 1

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        if not self.strength:
            return weight_ED
        own_ED = self.head.router_weight(weight_ED)
        return None if own_ED is None else torch.lerp(weight_ED.to(own_ED.dtype), own_ED, self.strength)

    def fold(self, router: StockRouter) -> StockRouter:
        return router.towards(self.head.fold(router), self.strength) if self.strength else router
