"""What the tuned gates of one model share while it runs."""

from typing import Literal

import torch
from torch import Tensor

from moe_tune.heads.base import RouterHead
from moe_tune.routing import RoutingTrace, Rows, Scope

RoutingDtype = Literal["float32", "native"]
"""``float32`` routes in float32 with ties towards the lower index; ``native`` has the base model's own numerics."""

Acting = list[tuple[RouterHead | None, Rows]]
"""Who decides on which tokens of a layer, every token once; ``None`` is the pretrained router."""


class Session:
    """What the tuned gates of one model share: the trace of the forward pass, the scope and the numerics.

    ``GatedModel.session`` is the only one to change it.
    """

    def __init__(self, scope: Scope, routing_dtype: RoutingDtype, needs: frozenset[str]) -> None:
        self.scope = scope
        self.routing_dtype = routing_dtype
        self.needs = needs
        self.trace: RoutingTrace | None = None
        self.bypassed = False
        """True while the pretrained router decides everywhere (calibration, and the pass over the prompts)."""
        self.everywhere = False
        """True while heads that choose their questions act on all, as in training."""
        self.answer_BS: Tensor | None = None
        """The answer tokens of the batches that run; ``None`` is the last real token of each row."""
        self.real_BS: Tensor | None = None
        """The real tokens of the batches that run; ``None`` are those of the attention mask."""
        self.panel: list[dict[int, RouterHead]] = []
        """Heads by layer that are compared in one pass over answer tokens; empty where each gate's own head acts."""

    def acting(self, layer: int, own: RouterHead | None, trace: RoutingTrace) -> Acting:
        """Return who decides on which tokens of a layer."""
        if self.bypassed:
            return [(None, slice(None))]
        if trace.answer_only and self.panel:
            heads = [one.get(layer) for one in self.panel]
            if not trace.acting and all(one is heads[0] for one in heads):
                return [(heads[0], slice(None))]  # they differ in other layers
            parts = [(one, slice(index, None, len(heads))) for index, one in enumerate(heads)]
            return [part for index, (head, rows) in enumerate(parts) for part in _chosen(trace, index, head, rows)]
        if len(self.panel) == 1:
            own = self.panel[0].get(layer)
        if own is None or trace.answer_only:
            return _chosen(trace, 0, own, slice(None))
        mine, others = trace.rows(self.scope)
        return [*_chosen(trace, 0, own, mine), *([] if others is None else [(None, others)])]

    def ask(self, layer: int, own: RouterHead | None, trace: RoutingTrace, hidden_TD: Tensor) -> None:
        """Let a layer's heads say which questions they act on, before they do; what a lower layer has said stands.

        In training a head acts on all, so that a guard trains what its inner head would train alone.
        """
        if self.bypassed or self.everywhere:
            return
        several = self.panel if trace.answer_only or len(self.panel) == 1 else []
        heads = [one.get(layer) for one in several] or [own]
        for index, head in enumerate(heads):
            if head is None or head.training or index in trace.acting or not head.chooses():
                continue
            place_Q = trace.last_prompt_tokens(slice(index, None, len(heads)))
            with torch.no_grad():
                chosen_Q = head.recognises(hidden_TD[place_Q])
            assert chosen_Q is not None
            every_Q = torch.ones(int(trace.question_T[-1]) + 1, dtype=torch.bool, device=chosen_Q.device)
            every_Q[trace.question_T[place_Q]] = chosen_Q
            trace.acting[index] = every_Q


def _chosen(trace: RoutingTrace, index: int, head: RouterHead | None, rows: Rows) -> Acting:
    """Return who decides on the tokens of a head: it where it acts on their question, else the pretrained router."""
    if head is None or index not in trace.acting:
        return [(head, rows)]
    mine, others = trace.split(index, rows)
    return [(one, where) for one, where in ((head, mine), (None, others)) if where is not None]
