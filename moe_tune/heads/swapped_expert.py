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
    the family's rule from unchanged logits. Tokens that had chosen it keep their decision to the last bit.

    Args:
        experts: Layer to the expert that is forced in; layers without an entry stay as they are.

    Shape:
        - ``experts_TK``: (T, K).

    Raises:
        ConfigError: A layer or an expert is not there.

    Reference:
        After the counterfactual routes of https://arxiv.org/abs/2605.07260, of which only the abstract was read; the
        exchange of one expert is this project's.
    """

    def __init__(self, experts: Mapping[int, int]) -> None:
        super().__init__()
        self.experts = {int(layer): int(one) for layer, one in experts.items()}
        self.forced: int | None = None

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
        self.forced, count = self.experts.get(gate.layer), gate.rule.num_experts
        there = self.forced is None or 0 <= self.forced < count
        hint = f"the layer has experts 0 to {count - 1}."
        require(there, f"an expert of layer {gate.layer}, which has {count},", self.forced, WHERE, hint)

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.experts)
        require(set(told) <= set(layers), f"layers of {layers}", told, WHERE, "leave the others out.")

    def changes_weights(self) -> bool:
        return bool(self.experts)

    def weigh(self, decision: Decision) -> Decision:
        if self.forced is None:
            return decision
        experts_TK, used_TK = decision.experts_TK, decision.used_TK
        last_T = torch.full((len(experts_TK),), experts_TK.shape[1] - 1, device=experts_TK.device)
        there_TK: Tensor = experts_TK == self.forced
        if used_TK is not None:
            last_T, there_TK = used_TK.long().sum(-1) - 1, there_TK & used_TK
        out_T = torch.where(there_TK.any(-1), -1, last_T)
        place_K = torch.arange(experts_TK.shape[1], device=experts_TK.device)
        return replace(decision, experts_TK=torch.where(place_K == out_T[:, None], self.forced, experts_TK))
