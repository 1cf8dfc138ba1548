"""Masked experts: some experts of a layer are never chosen, as if they were not there."""

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import ScoringRule

WHERE = "head.experts"


class MaskedExperts(RouterHead):
    r"""Lets some experts of each layer never be chosen: the next best steps in, and the rest share the probability.

    Formula: ``z_i = -inf`` for masked experts, ``p = softmax(z)``, ``S = topK(z)``, ``w`` by the family's rule, so that
    layer, choice and weights are those of a model without these experts. It holds for what the router chooses by: under
    a correction bias the scores are masked after the bias is added, and where groups are chosen first, a masked expert
    does not count for its group. In a stack it acts after what all parts do to the logits and to the scores, so that
    none brings an expert back. The record has ``z_i = -16384`` for ``-inf``: the same probability, exactly 0, with
    finite sums and gradients. From the start tokens whose experts are masked go elsewhere.

    Args:
        experts: Layer to the experts that are masked in it; layers without an entry keep all. ``{}`` masks none.

    Shape:
        - ``masked_E``: (E,), a frozen buffer of truth values.

    Raises:
        ConfigError: A layer or an expert is not there or named twice, a layer's router does not get the head, or too
            few experts are left: a token needs K, in families that choose groups first from any groups it may choose.

    Reference:
        This project's. Masked and removed experts compared: ``prune``.
    """

    masked_E: Tensor

    def __init__(self, experts: dict[int, list[int]]) -> None:
        super().__init__()
        for layer, some in experts.items():
            hint = "name each expert once."
            require(len(set(some)) == len(some), f"different experts in layer {layer}", list(some), WHERE, hint)
        self.experts = {int(layer): sorted(some) for layer, some in experts.items()}
        self._last: tuple[ScoringRule, int, ScoringRule] | None = None

    @property
    def traits(self) -> HeadTraits:
        if not any(self.experts.values()):
            return HeadTraits()
        return HeadTraits(exact_start=False, reason="tokens of masked experts go elsewhere")

    def bind(self, gate: BaseGate) -> None:
        """Take the layer's own experts.

        Raises:
            ConfigError: One is not there.
        """
        rule, mine = gate.rule, self.experts.get(gate.layer, [])
        hint = f"the layer has experts 0 to {rule.num_experts - 1}."
        there = all(0 <= one < rule.num_experts for one in mine)
        require(there, f"experts of layer {gate.layer}, which has {rule.num_experts},", mine, WHERE, hint)
        masked_E = torch.zeros(rule.num_experts, dtype=torch.bool, device=gate.weight_ED.device)
        masked_E[mine] = True
        self.register_buffer("masked_E", masked_E)

    def refuse_layers(self, layers: list[int]) -> None:
        told = sorted(self.experts)
        require(set(told) <= set(layers), f"layers of {layers}", told, WHERE, "leave the others out.")

    def refuse_places(self, layers: list[int]) -> None:
        told = [layer for layer, some in sorted(self.experts.items()) if some]
        hint = "set model.layers to all, or name the layers there."
        require(set(told) <= set(layers), f"layers that get the head, {layers},", told, WHERE, hint)

    def allowed(self, rule: ScoringRule) -> ScoringRule:
        """Return the rule without the masked experts; found once, as counting them waits for the device."""
        if not any(self.experts.values()):
            return rule
        version = self.masked_E._version  # a checkpoint may have been loaded since
        if self._last is None or self._last[0] is not rule or self._last[1] != version:
            self._last = (rule, version, rule.without(self.masked_E))
        return self._last[2]

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        """Return no weight where an expert is masked: none keeps it from being chosen."""
        return None if any(self.experts.values()) else weight_ED
