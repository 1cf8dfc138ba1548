"""A swapped expert: one expert of a layer serves every token, in the place of the last that it would have had."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision

WHERE = "head.experts"


class SwappedExpert(RouterHead):
    r"""Forces one expert of a layer in, in the place of the lowest-ranked one that was chosen: as much work as before.

    Formula: ``S' = S`` where the expert is in ``S``, else ``S`` with its last member exchanged for it; ``w = p_S'`` by
    the family's rule from unchanged logits. Tokens that had chosen it keep their decision to the last bit; the others
    have another set of experts from the start.

    Args:
        experts: Layer to the expert that is forced in; layers without an entry stay as they are.

    Shape:
        - ``forced_E``: (E,), a frozen buffer of truth values.
        - ``experts_TK``: (T, K).

    Raises:
        ConfigError: A layer or an expert is not there.

    Reference:
        After the counterfactual routes of https://arxiv.org/abs/2605.07260, of which only the abstract was read; the
        exchange of one expert is this project's.
    """

    forced_E: Tensor

    def __init__(self, experts: Mapping[int, int]) -> None:
        super().__init__()
        self.experts = {int(layer): int(one) for layer, one in experts.items()}

    @property
    def traits(self) -> HeadTraits:
        if not self.experts:
            return HeadTraits(keeps_mass=True)
        return HeadTraits(exact_start=False, reason="an expert is forced in")

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own expert.

        Raises:
            ConfigError: It is not there.
        """
        forced, count = self.experts.get(gate.layer), gate.rule.num_experts
        there = forced is None or 0 <= forced < count
        hint = f"the layer has experts 0 to {count - 1}."
        require(there, f"an expert of layer {gate.layer}, which has {count},", forced, WHERE, hint)
        forced_E = torch.zeros(count, dtype=torch.bool, device="cpu")
        forced_E[[] if forced is None else [forced]] = True
        self.idle = forced is None
        self.register_buffer("forced_E", forced_E.to(gate.weight_ED.device))

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.experts)
        require(set(told) <= set(layers), f"layers of {layers}", told, WHERE, "leave the others out.")

    def changes_weights(self) -> bool:
        return bool(self.experts)

    def weigh(self, decision: Decision) -> Decision:
        if self.idle:
            return decision
        experts_TK, used_TK = decision.experts_TK, decision.used_TK
        last_T = torch.full((len(experts_TK),), experts_TK.shape[1] - 1, device=experts_TK.device)
        there_TK = self.forced_E[experts_TK]
        if used_TK is not None:
            last_T, there_TK = used_TK.long().sum(-1) - 1, there_TK & used_TK
        out_T = torch.where(there_TK.any(-1), -1, last_T)
        place_K = torch.arange(experts_TK.shape[1], device=experts_TK.device)
        forced_TK = torch.where(place_K == out_T[:, None], self.forced_E.long().argmax(), experts_TK)
        return replace(decision, experts_TK=forced_TK)
