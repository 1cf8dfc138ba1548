"""Dropped experts: some experts of a layer are chosen as ever, and say nothing."""

from moe_tune.heads.base import HeadTraits
from moe_tune.heads.named_experts import NamedExperts
from moe_tune.routing import Decision


class DroppedExperts(NamedExperts):
    r"""Weighs the outputs of some experts with zero; choice and all other weights stay as they are.

    Formula: ``w_i = 0`` for dropped experts. No other expert steps in and nothing is renormalised, so that the layer's
    output loses what they add, and with it some of its scale: what the experts contribute directly, on hidden states
    that the layers above may never have met. Tokens that chose none of them keep their decision to the last bit. From
    the start the others are answered without what these experts add. For what removing an expert would do, take
    ``MaskedExperts``.

    Args:
        experts: Layer to the experts that are dropped in it; layers without an entry keep all. ``{}`` drops none.

    Shape:
        - ``named_E``: (E,), a frozen buffer of truth values.

    Raises:
        ConfigError: A layer or an expert is not there, an expert is named twice, or a layer does not get the head.

    Reference:
        Zero ablation, as in Meyes et al. 2019, "Ablation Studies in Artificial Neural Networks",
        https://arxiv.org/abs/1901.08644, which was not read for this; its form for experts is this project's.
    """

    @property
    def traits(self) -> HeadTraits:
        if not self.names_any:
            return HeadTraits(keeps_mass=True)
        return HeadTraits(exact_start=False, reason="dropped experts add nothing")

    def changes_weights(self) -> bool:
        return self.names_any

    def weigh(self, decision: Decision) -> Decision:
        if not self.changes_weights():
            return decision
        kept_TK = (~self.named_E[decision.experts_TK]).to(decision.probs_TE.dtype)
        return decision.scaled(kept_TK)  # a factor of 1 changes no bit
