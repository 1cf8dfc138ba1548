"""How expert outputs are mixed where a head has its own way of it (``RouterHead.mix``)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moe_tune.heads.base import RouterHead
from moe_tune.panel import head_rows, interleaved
from moe_tune.routing import RoutingTrace

if TYPE_CHECKING:
    from moe_tune.gate import Session


class TunedExperts(nn.Module):
    """The experts of a layer, mixed by a head for the tokens it acts on and by the family's stock call for the others.

    Args:
        stock: The experts module it stands in for.
        head: A bound head that overrides ``mix``; ``None`` where only heads that are compared do.
        layer: Index of the layer in the model.
        session: Shared with the gates of the model.
    """

    def __init__(self, stock: nn.Module, head: RouterHead | None, layer: int, session: "Session") -> None:
        super().__init__()
        self.stock, self.layer, self.session = stock, layer, session
        self.mixer = [head]  # in a list: the head is a submodule of the gate, and of nothing else

    def forward(self, hidden_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Return the mixed expert outputs, as the stock experts do.

        Args:
            hidden_TD: Input of the experts.
            experts_TK: Chosen experts.
            weights_TK: Their weights, in the input's dtype.

        Shape:
            - returns (T, D).
        """
        trace, head = self.session.trace, self.mixer[0]
        if trace is not None and trace.answer_only and not self.session.bypassed:
            return self._answers(hidden_TD, experts_TK, weights_TK, trace)
        if trace is None or head is None or self.session.bypassed:
            stock_TD: Tensor = self.stock(hidden_TD, experts_TK, weights_TK)
            return stock_TD
        acts_T = trace.mask(self.session.scope)
        tuned_TD = head.mix(hidden_TD[acts_T], trace.outputs[self.layer].rows(acts_T), self.stock)
        rest_TD = self.stock(hidden_TD[~acts_T], experts_TK[~acts_T], weights_TK[~acts_T])
        mixed_TD = torch.zeros_like(hidden_TD, dtype=rest_TD.dtype)
        mixed_TD = mixed_TD.index_put((acts_T.nonzero().squeeze(-1),), tuned_TD.to(rest_TD.dtype))
        return mixed_TD.index_put(((~acts_T).nonzero().squeeze(-1),), rest_TD)

    def _answers(self, hidden_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, trace: RoutingTrace) -> Tensor:
        """Mix for answer tokens alone: those of each head by its own way, if it has one."""
        heads = self.session.heads_at(self.layer, self.mixer[0])
        output = trace.outputs[self.layer]
        parts: list[Tensor] = []
        for head, rows in zip(heads, head_rows(len(heads)), strict=True):
            mixer = head.mixer() if head is not None else None
            if mixer is None:
                parts.append(self.stock(hidden_TD[rows], experts_TK[rows], weights_TK[rows]))
            else:
                parts.append(mixer.mix(hidden_TD[rows], output.rows(rows), self.stock))
        return interleaved(parts)
