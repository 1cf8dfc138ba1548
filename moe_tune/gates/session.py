"""What the tuned gates of one model share while it runs."""

from typing import Literal

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
        self.answer_BS: Tensor | None = None
        """The answer tokens of the batches that run; ``None`` is the last real token of each row."""
        self.panel: list[dict[int, RouterHead]] = []
        """Heads by layer that are compared in one pass over answer tokens; empty where each gate's own head acts."""

    def acting(self, layer: int, own: RouterHead | None, trace: RoutingTrace) -> Acting:
        """Return who decides on which tokens of a layer."""
        if self.bypassed:
            return [(None, slice(None))]
        if trace.answer_only and self.panel:
            return [(one.get(layer), slice(index, None, len(self.panel))) for index, one in enumerate(self.panel)]
        if own is None or trace.answer_only:
            return [(own, slice(None))]
        mine, others = trace.rows(self.scope)
        return [(own, mine)] if others is None else [(own, mine), (None, others)]
