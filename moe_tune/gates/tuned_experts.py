"""How expert outputs are mixed where a head has its own way of it (``RouterHead.mix``)."""

import torch
from torch import Tensor, nn

from moe_tune.gates.panel import head_rows, interleaved
from moe_tune.gates.session import Session
from moe_tune.heads.base import RouterHead
from moe_tune.routing import RoutingTrace


def expert_outputs(experts: nn.Module, hidden_TD: Tensor, experts_TK: Tensor) -> Tensor:
    """Return what each chosen expert makes of a token, unweighted, (T, K, D).

    Args:
        experts: A layer's stock experts; every family takes hidden states, indices and weights.
        hidden_TD: Their input.
        experts_TK: Chosen experts.
    """
    tokens, slots = experts_TK.shape
    spread_TD = hidden_TD.repeat_interleave(slots, dim=0)
    one_T1 = torch.ones(tokens * slots, 1, dtype=hidden_TD.dtype, device=hidden_TD.device)
    outputs: Tensor = experts(spread_TD, experts_TK.reshape(-1, 1), one_T1)
    return outputs.view(tokens, slots, -1)


class TunedExperts(nn.Module):
    """The experts of a layer, mixed by a head for the tokens it acts on and by the family's stock call for the others.

    Args:
        stock: The experts module it stands in for.
        head: A bound head that overrides ``mix``; ``None`` where only heads that are compared do.
        layer: Index of the layer in the model.
        session: Shared with the gates of the model.
    """

    def __init__(self, stock: nn.Module, head: RouterHead | None, layer: int, session: Session) -> None:
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
        mixed_TD: Tensor = self.stock(hidden_TD, experts_TK, weights_TK)
        if trace is None or self.session.bypassed:
            return mixed_TD
        if trace.answer_only:
            return self._answers(mixed_TD, hidden_TD, trace)
        if head is None:
            return mixed_TD
        acts_T = trace.mask(self.session.scope)
        output = trace.outputs[self.layer].rows(acts_T)
        tuned_TD = head.mix(mixed_TD[acts_T], hidden_TD[acts_T], output, self.stock)
        return mixed_TD.index_put((acts_T.nonzero().squeeze(-1),), tuned_TD.to(mixed_TD.dtype))

    def _answers(self, mixed_TD: Tensor, hidden_TD: Tensor, trace: RoutingTrace) -> Tensor:
        """Mix for answer tokens alone: those of each head by its own way, if it has one."""
        heads = self.session.heads_at(self.layer, self.mixer[0])
        output = trace.outputs[self.layer]
        parts: list[Tensor] = []
        for head, rows in zip(heads, head_rows(len(heads)), strict=True):
            mixer = head.mixer() if head is not None else None
            own_TD = mixed_TD[rows]
            parts.append(own_TD if mixer is None else mixer.mix(own_TD, hidden_TD[rows], output.rows(rows), self.stock))
        return interleaved(parts)
