"""Fixed k: every token gets the same number of experts, which need not be the one the checkpoint was made for."""

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, ScoringRule, StockRouter


class FixedKHead(RouterHead):
    r"""Gives every token its k best experts: fewer than the checkpoint was made for is less work, more is more.

    Formula: ``S = top-k(z)``, ``w = p_S`` by the family's rule; with ``renormalise`` ``w = p_S m_K / m_k``, ``m_k`` the
    sum of the rule's weights over ``S`` and ``m_K`` that over the checkpoint's own K best, so that the layer's output
    keeps its scale. In families that renormalise both sums are 1 and it makes no difference. Where k is K the start
    is exact, elsewhere it is not; slots beyond k are unused.

    Args:
        k: Experts per token, 1 to E; or by layer (``{0: 8, 1: 4}``), where layers without an entry keep K.
        renormalise: Keep the total weight that the checkpoint's own K experts would have.

    Shape:
        - ``weights_TK``: (T, the larger of k and K).

    Raises:
        ConfigError: ``k`` is below 1, above the number of experts of a layer, or of a layer that is not there.

    Reference:
        MoE-PHDS, https://arxiv.org/abs/2509.23012 (read in abstract alone), asks for a checkpoint that serves several
        k; keeping the mass of the checkpoint's own K is this project's.
    """

    traits = HeadTraits(exact_start=False, variable_k=True, reason="k is another one than the checkpoint was made for")

    def __init__(self, k: int | dict[int, int], renormalise: bool = False) -> None:
        super().__init__()
        given = list(k.values()) if isinstance(k, dict) else [k]
        hint = "k of the checkpoint changes nothing, 1 is the least."
        require(bool(given) and min(given) >= 1, "at least 1 expert per token", k, "head.k", hint)
        self.k, self.renormalise = k, renormalise

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own k.

        Raises:
            ConfigError: The layer has fewer experts than that.
        """
        self.rule = gate.rule
        own = self.k.get(gate.layer, gate.rule.top_k) if isinstance(self.k, dict) else self.k
        hint = f"the layer has {gate.rule.num_experts} experts and was made for {gate.rule.top_k} of them."
        expected = f"1 to {gate.rule.num_experts} experts per token in layer {gate.layer}"
        require(own <= gate.rule.num_experts, expected, own, "head.k", hint)
        self.count = own

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.k) if isinstance(self.k, dict) else []
        require(set(told) <= set(layers), f"layers of {layers}", told, "head.k", "leave the others out.")

    def fold(self, router: StockRouter) -> StockRouter:
        return router if self.count == router.rule.top_k else super().fold(router)

    def slots_for(self, rule: ScoringRule) -> int:
        return self.count

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor | None:
        slots = experts_TK.shape[1]
        if slots == self.count == self.rule.top_k:
            return None
        first_K = torch.arange(slots, device=experts_TK.device) < self.count
        return first_K.expand(experts_TK.shape)

    def changes_weights(self) -> bool:
        return self.renormalise

    def weigh(self, decision: Decision) -> Decision:
        """Give the chosen experts the total weight of the pretrained router's choice by the same logits."""
        if not self.renormalise or self.count == self.rule.top_k:
            return decision
        rule, probs_TE = decision.rule, decision.probs_TE
        own_TK = rule.choose(decision.logits_TE.float(), rule.top_k)
        wanted_T1 = rule.weights(probs_TE, own_TK).sum(-1, keepdim=True)
        there_T1 = rule.weights(probs_TE, decision.experts_TK, decision.used_TK).sum(-1, keepdim=True)
        return decision.scaled(wanted_T1 / there_T1.clamp(min=torch.finfo(there_T1.dtype).tiny))
