"""What one MoE layer's router decided for every token of a forward pass."""

from dataclasses import dataclass

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

    def rows(self, mask_T: Rows) -> "RouterOutput":
        """Return the output for some of the tokens only."""

        def keep(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[mask_T]

        return RouterOutput(
            logits_TE=self.logits_TE[mask_T],
            probs_TE=self.probs_TE[mask_T],
            weights_TK=self.weights_TK[mask_T],
            experts_TK=self.experts_TK[mask_T],
            mask_T=self.mask_T[mask_T],
            layer=self.layer,
            used_TK=keep(self.used_TK),
            base_logits_TE=keep(self.base_logits_TE),
            hidden_TD=keep(self.hidden_TD),
            rule=self.rule,
        )

    def counts_E(self) -> Tensor:
        """Return how many tokens chose each expert, filled-up slots and padding left out."""
        used_TK = self.mask_T[:, None].expand_as(self.experts_TK)
        if self.used_TK is not None:
            used_TK = used_TK & self.used_TK
        counts = torch.zeros(self.logits_TE.shape[-1], dtype=torch.long, device=self.experts_TK.device)
        return counts.index_add_(0, self.experts_TK.reshape(-1), used_TK.reshape(-1).long())
