"""What a stock gate can be told: the form that a router head folds into, where it folds at all."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_tune.base.errors import ConfigError
from moe_tune.routing.scoring_rule import ScoringRule


@dataclass(frozen=True, slots=True)
class StockRouter:
    """A stock gate's own tensors, as far as heads may write them.

    Formula: ``z = (W h + b) / tau``, ``S`` the K largest of ``z``, or of ``p + c`` with ``p`` the softmax of ``z``, and
    weights by the family's rule from ``z``. ``settled`` writes ``tau`` into ``W`` and ``b``.

    Args:
        weight_ED: W, the weight of the gate's projection.
        bias_E: b, the constants of its projection; ``None`` where it has none.
        choice_E: c, what the gate adds to probabilities for the choice alone; ``None`` where it adds nothing.
        rule: The layer's scoring rule.
        temperature: tau, above 0.

    Shape:
        - ``weight_ED``: (E, D); ``bias_E``, ``choice_E``: (E,).
    """

    weight_ED: Tensor
    bias_E: Tensor | None
    choice_E: Tensor | None
    rule: ScoringRule
    temperature: float = 1.0

    def scaled(self, factor_E: Tensor) -> "StockRouter":
        """Return the router whose logits are multiplied, each expert's by its own factor."""
        bias_E = None if self.bias_E is None else self.bias_E * factor_E
        return replace(self, weight_ED=self.weight_ED * factor_E[:, None], bias_E=bias_E)

    def shifted(self, shift_E: Tensor, who: str) -> "StockRouter":
        """Return the router to whose logits constants are added.

        Raises:
            ConfigError: The gate's projection has no bias.
        """
        if not shift_E.any():
            return self
        if self.bias_E is None:
            raise unfoldable(who, "it adds a constant to each expert's logit, and this family's gate has no bias")
        return replace(self, bias_E=self.bias_E + shift_E)

    def tempered(self, tau: float, who: str) -> "StockRouter":
        """Return the router whose weights are those of its logits divided by a temperature.

        Raises:
            ConfigError: The family does not choose the experts of the largest logits.
        """
        if not self.rule.chooses_by_logits:
            raise unfoldable(
                who, "this family also chooses by something else than logits, which a divided weight would move"
            )
        return replace(self, temperature=self.temperature * tau)

    def choosing_by(self, choice_E: Tensor, who: str) -> "StockRouter":
        """Return the router that adds constants to the probabilities for the choice alone.

        Raises:
            ConfigError: The gate has no such bias, which is the correction bias of some families.
        """
        if self.choice_E is None:
            raise unfoldable(who, "it moves the choice without the weights, and this family's gate has no bias for it")
        return replace(self, choice_E=self.choice_E + choice_E)

    def towards(self, other: "StockRouter", share: float) -> "StockRouter":
        """Return the router whose logits lie between this one's and another's; share 1 is the other's."""
        bias_E = self.bias_E
        if bias_E is not None and other.bias_E is not None:
            bias_E = torch.lerp(bias_E, other.bias_E, share)
        return replace(self, weight_ED=torch.lerp(self.weight_ED, other.weight_ED, share), bias_E=bias_E)

    def settled(self, who: str) -> "StockRouter":
        """Return the router with its temperature written into weight and bias.

        Raises:
            ConfigError: The choice has a bias of its own, which the temperature would act on.
        """
        if self.temperature == 1.0:
            return self
        if self.choice_E is not None and bool(self.choice_E.any()):
            raise unfoldable(who, "its choice is biased at one temperature and its weights are of another")
        tau = self.temperature
        bias_E = None if self.bias_E is None else self.bias_E / tau
        return replace(self, weight_ED=self.weight_ED / tau, bias_E=bias_E, temperature=1.0)


def unfoldable(who: str, reason: str) -> ConfigError:
    """Return the refusal of a head that no stock gate can be.

    Args:
        who: The class of the head, or of the part of it, that stands in the way.
        reason: Why, without a full stop.

    Example:
        >>> print(unfoldable("MlpHead", "its logits are not linear"))
        expected a head that a stock gate can be but got MlpHead: its logits are not linear (export --fold). Hint: \
without --fold a router card is written.
    """
    return ConfigError(
        f"expected a head that a stock gate can be but got {who}: {reason} (export --fold). "
        "Hint: without --fold a router card is written."
    )
