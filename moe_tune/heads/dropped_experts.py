"""Dropped experts: some experts of a layer are chosen as ever, and say nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision

WHERE = "head.experts"


class DroppedExperts(RouterHead):
    r"""Weighs the outputs of some experts with zero; choice and all other weights stay as they are.

    Formula: ``w_i = 0`` for dropped experts. No other expert steps in and nothing is renormalised, so that the layer's
    output loses what they add, and with it some of its scale: what the experts contribute directly, on hidden states
    that the layers above may never have met. Tokens that chose none of them keep their decision to the last bit. From
    the start the others are answered without what these experts add. For what removing an expert would do, take
    ``MaskedExperts``.

    Args:
        experts: Layer to the experts that are dropped in it; layers without an entry keep all. ``{}`` drops none.

    Shape:
        - ``dropped_E``: (E,), a frozen buffer of truth values.

    Raises:
        ConfigError: A layer or an expert is not there, or an expert is named twice.

    Reference:
        Zero ablation, as in Meyes et al. 2019, "Ablation Studies in Artificial Neural Networks",
        https://arxiv.org/abs/1901.08644, which was not read for this; its form for experts is this project's.
    """

    dropped_E: Tensor

    def __init__(self, experts: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        for layer, some in experts.items():
            hint = "name each expert once."
            require(len(set(some)) == len(some), f"different experts in layer {layer}", list(some), WHERE, hint)
        self.experts = {int(layer): sorted(some) for layer, some in experts.items()}

    @property
    def traits(self) -> HeadTraits:
        if not any(self.experts.values()):
            return HeadTraits(keeps_mass=True)
        return HeadTraits(exact_start=False, reason="dropped experts add nothing")

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own experts.

        Raises:
            ConfigError: One is not there.
        """
        count, mine = gate.rule.num_experts, self.experts.get(gate.layer, [])
        hint = f"the layer has experts 0 to {count - 1}."
        there = all(0 <= one < count for one in mine)
        require(there, f"experts of layer {gate.layer}, which has {count},", mine, WHERE, hint)
        dropped_E = torch.zeros(count, dtype=torch.bool, device="cpu")
        dropped_E[mine] = True
        self.register_buffer("dropped_E", dropped_E.to(gate.weight_ED.device))

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.experts)
        require(set(told) <= set(layers), f"layers of {layers}", told, WHERE, "leave the others out.")

    def changes_weights(self) -> bool:
        return any(self.experts.values())

    def weigh(self, decision: Decision) -> Decision:
        if not self.changes_weights():
            return decision
        kept_TK = (~self.dropped_E[decision.experts_TK]).to(decision.probs_TE.dtype)
        return decision.scaled(kept_TK)  # a factor of 1 changes no bit
