"""What heads that are told experts by layer have in common: which of a layer's experts are meant."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, RouterHead

WHERE = "head.experts"


class NamedExperts(RouterHead):
    """A head that treats some experts of each layer in its own way.

    Args:
        experts: Layer to the experts that are meant in it; layers without an entry have none.

    Shape:
        - ``named_E``: (E,), a frozen buffer of truth values.

    Raises:
        ConfigError: A layer or an expert is not there, an expert is named twice, or a layer does not get the head.
    """

    named_E: Tensor

    def __init__(self, experts: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        for layer, some in experts.items():
            hint = "name each expert once."
            require(len(set(some)) == len(some), f"different experts in layer {layer}", list(some), WHERE, hint)
        self.experts = {int(layer): sorted(some) for layer, some in experts.items()}

    @property
    def names_any(self) -> bool:
        """Whether an expert of any layer is meant."""
        return any(self.experts.values())

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own experts.

        Raises:
            ConfigError: One is not there.
        """
        count, mine = gate.rule.num_experts, self.experts.get(gate.layer, [])
        hint = f"the layer has experts 0 to {count - 1}."
        there = all(0 <= one < count for one in mine)
        require(there, f"experts of layer {gate.layer}, which has {count},", mine, WHERE, hint)
        named_E = torch.zeros(count, dtype=torch.bool, device="cpu")
        named_E[mine] = True
        self.register_buffer("named_E", named_E.to(gate.weight_ED.device))

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.experts)
        require(set(told) <= set(layers), f"layers of {layers}", told, WHERE, "leave the others out.")

    def refuse_places(self, layers: list[int]) -> None:
        told = [layer for layer, some in sorted(self.experts.items()) if some]
        hint = "set model.layers to all, or name the layers there."
        require(set(told) <= set(layers), f"layers that get the head, {layers},", told, WHERE, hint)
