"""Masked experts: some experts of a layer are never chosen, as if they were not there."""

from torch import Tensor

from moe_tune.heads.base import HeadTraits
from moe_tune.heads.named_experts import NamedExperts
from moe_tune.routing import ScoringRule


class MaskedExperts(NamedExperts):
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
        - ``named_E``: (E,), a frozen buffer of truth values.

    Raises:
        ConfigError: A layer or an expert is not there or named twice, a layer's router does not get the head, or too
            few experts are left: a token needs K, in families that choose groups first from any groups it may choose.

    Reference:
        This project's. Masked and removed experts compared: ``prune``.
    """

    def __init__(self, experts: dict[int, list[int]]) -> None:
        super().__init__(experts)
        self._last: tuple[tuple[ScoringRule, Tensor, int], ScoringRule] | None = None

    @property
    def traits(self) -> HeadTraits:
        if not self.names_any:
            return HeadTraits()
        return HeadTraits(exact_start=False, reason="tokens of masked experts go elsewhere")

    def allowed(self, rule: ScoringRule) -> ScoringRule:
        """Return the rule without the masked experts; found once, as counting them waits for the device."""
        if not self.names_any:
            return rule
        # A checkpoint may have been loaded since, or the head moved to another device.
        known = (rule, self.named_E, self.named_E._version)
        if self._last is None or any(one is not other for one, other in zip(self._last[0], known, strict=True)):
            self._last = (known, rule.without(self.named_E))
        return self._last[1]

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        """Return no weight where an expert is masked: none keeps it from being chosen."""
        return None if self.names_any else weight_ED
