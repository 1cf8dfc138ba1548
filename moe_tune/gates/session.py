"""What the tuned gates of one model share while it runs."""

from typing import Literal

from moe_tune.heads.base import RouterHead
from moe_tune.routing import RoutingTrace, Scope

RoutingDtype = Literal["float32", "native"]
"""``float32`` routes in float32 with ties towards the lower index; ``native`` has the base model's own numerics."""


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
        self.panel: list[dict[int, RouterHead]] = []
        """Heads by layer that are compared in one pass over answer tokens; empty where each gate's own head acts."""

    def heads_at(self, layer: int, own: RouterHead | None) -> list[RouterHead | None]:
        """Return the heads that act on a layer's answer tokens, in the order of a question's tokens.

        Args:
            layer: Index of the layer in the model.
            own: The head of the layer's gate.
        """
        heads: list[RouterHead | None] = [one.get(layer) for one in self.panel] if self.panel else [own]
        return [None] * len(heads) if self.bypassed else heads
