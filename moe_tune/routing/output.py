"""What one MoE layer's router decided for every token of a forward pass."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from moe_tune.routing.scoring_rule import ScoringRule

Rows = slice | Tensor
"""Which tokens of a batch: a slice, which copies nothing, or their indices."""


@dataclass(slots=True)
class RouterOutput:
    """What one MoE layer's router decided for every token.

    Args:
        logits_TE: Raw router logits, before any softmax.
        probs_TE: The probabilities the decision was made with, whatever the head; never softmax them again.
        weights_TK: Weights the expert outputs are summed with, float32.
        experts_TK: Chosen experts, best first.
        mask_T: True for real tokens, False for padding.
        layer: Index of the layer in the model.
        used_TK: False where a slot is only filled up; ``None`` when every slot is in use.
        base_logits_TE: Logits of the pretrained router on the same hidden states, if something needs them.
        hidden_TD: The router's input, if something needs it.
        rule: The layer's scoring rule, for what is computed of the pretrained router's logits.
        own_probs_TE: ``probs_TE`` with a gradient to this layer's own head and router alone, none to what is below, if
            something needs it.
    """

    logits_TE: Tensor
    probs_TE: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    mask_T: Tensor
    layer: int
    used_TK: Tensor | None = None
    base_logits_TE: Tensor | None = None
    hidden_TD: Tensor | None = None
    rule: ScoringRule | None = None
    own_probs_TE: Tensor | None = None

    def rows(self, mask_T: Rows) -> "RouterOutput":
        """Return the output for some of the tokens only."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        kept: dict[str, Any] = {name: one[mask_T] for name, one in values.items() if isinstance(one, Tensor)}
        return replace(self, **kept)

    @property
    def counted_TK(self) -> Tensor:
        """True where a real token uses a slot."""
        real_TK = self.mask_T[:, None].expand_as(self.experts_TK)
        return real_TK if self.used_TK is None else real_TK & self.used_TK

    def counts_E(self) -> Tensor:
        """Return how many tokens chose each expert, filled-up slots and padding left out."""
        counts = torch.zeros(self.logits_TE.shape[-1], dtype=torch.long, device=self.experts_TK.device)
        return counts.index_add_(0, self.experts_TK.reshape(-1), self.counted_TK.reshape(-1).long())
