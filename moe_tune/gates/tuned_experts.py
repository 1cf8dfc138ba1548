"""How expert outputs are mixed where a head has its own way of it (``RouterHead.mix``)."""

import torch
from torch import Tensor, nn

from moe_tune.gates.assembled import assembled
from moe_tune.gates.session import Session
from moe_tune.heads.base import RouterHead


def expert_outputs(experts: nn.Module, hidden_TD: Tensor, experts_TK: Tensor) -> Tensor:
    """Return what each chosen expert makes of a token, unweighted, (T, K, D)."""
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

        Shape:
            - returns (T, D).
        """
        trace = self.session.trace
        mixed_TD: Tensor = self.stock(hidden_TD, experts_TK, weights_TK)
        acting = [] if trace is None else self.session.acting(self.layer, self.mixer[0], trace)
        mixers = [None if head is None else head.mixer() for head, _ in acting]
        if trace is None or all(one is None for one in mixers):
            return mixed_TD
        output = trace.outputs[self.layer]
        parts = [
            mixed_TD[rows]
            if mixer is None
            else mixer.mix(mixed_TD[rows], hidden_TD[rows], output.rows(rows), self.stock).to(mixed_TD.dtype)
            for mixer, (_, rows) in zip(mixers, acting, strict=True)
        ]
        return assembled(parts, [rows for _, rows in acting], len(mixed_TD))
