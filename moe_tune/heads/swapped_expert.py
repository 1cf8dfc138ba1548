"""A swapped expert: one expert of a layer serves every token, in the place of the last that it would have had."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from moe_tune.heads.base import BaseGate, HeadTraits
from moe_tune.heads.named_experts import NamedExperts
from moe_tune.routing import Decision


class SwappedExpert(NamedExperts):
    r"""Forces one expert of a layer in, in the place of the lowest-ranked one that was chosen: as much work as before.

    Formula: ``S' = S`` where the expert is in ``S``, else ``S`` with its last member exchanged for it; ``w = p_S'`` by
    the family's rule from unchanged logits. Tokens that had chosen it keep their decision to the last bit; the others
    have another set of experts from the start.

    Args:
        experts: Layer to the expert that is forced in; layers without an entry stay as they are.

    Shape:
        - ``named_E``: (E,), a frozen buffer of truth values.
        - ``experts_TK``: (T, K).

    Raises:
        ConfigError: A layer or an expert is not there, or a layer does not get the head.

    Reference:
        After the counterfactual routes of https://arxiv.org/abs/2605.07260, of which only the abstract was read; the
        exchange of one expert is this project's.
    """

    def __init__(self, experts: Mapping[int, int]) -> None:
        super().__init__({layer: [one] for layer, one in experts.items()})

    @property
    def traits(self) -> HeadTraits:
        if not self.names_any:
            return HeadTraits(keeps_mass=True)
        return HeadTraits(exact_start=False, reason="an expert is forced in")

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own expert."""
        super().bind(gate)
        self.idle = not self.experts.get(gate.layer)

    def changes_weights(self) -> bool:
        return self.names_any

    def weigh(self, decision: Decision) -> Decision:
        if self.idle:
            return decision
        experts_TK, used_TK = decision.experts_TK, decision.used_TK
        last_T = torch.full((len(experts_TK),), experts_TK.shape[1] - 1, device=experts_TK.device)
        there_TK = self.named_E[experts_TK]
        if used_TK is not None:
            last_T, there_TK = used_TK.long().sum(-1) - 1, there_TK & used_TK
        out_T = torch.where(there_TK.any(-1), -1, last_T)
        place_K = torch.arange(experts_TK.shape[1], device=experts_TK.device)
        forced_TK = torch.where(place_K == out_T[:, None], self.named_E.long().argmax(), experts_TK)
        return replace(decision, experts_TK=forced_TK)
