"""What a head around another head has in common with every other such: all that it does not change is the inner's."""

from typing import Any

from torch import Tensor, nn

from moe_tune.heads.base import BaseGate, RouterHead
from moe_tune.routing import (
    Decision,
    LayerTable,
    RouterOutput,
    RoutingTrace,
    Rows,
    ScoringRule,
    StockRouter,
    unfoldable,
)

STAGES = ("recognises", "meet", "score", "select", "slots_for", "admit", "weigh", "mix", "router_weight")
"""What a wrapper may change of what its inner head does in evaluation."""


class WrapperHead(RouterHead):
    """A head around another one, which says of itself what it changes (``traits``).

    Its tensors have the inner head's names, so that a checkpoint of the one is a checkpoint of the other.

    Args:
        head: The inner head.
    """

    def __init__(self, head: RouterHead) -> None:
        super().__init__()
        self.head = head
        self.register_state_dict_post_hook(_inner_names)

    def bind(self, gate: BaseGate) -> None:
        self.head.bind(gate)

    def meet(self, trace: RoutingTrace, rows: Rows) -> None:
        self.head.meet(trace, rows)

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        return self.head.score(hidden_TD, logits_TE)

    def select(self, scores_TE: Tensor) -> Tensor:
        return self.head.select(scores_TE)

    def changes_selection(self) -> bool:
        return self.head.changes_selection()

    def changes_weights(self) -> bool:
        return self.head.changes_weights()

    def slots_for(self, rule: ScoringRule) -> int:
        return self.head.slots_for(rule)

    def allowed(self, rule: ScoringRule) -> ScoringRule:
        return self.head.allowed(rule)

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor | None:
        return self.head.admit(logits_TE, probs_TE, experts_TK)

    def weigh(self, decision: Decision) -> Decision:
        return self.head.weigh(decision)

    def calibrate(self, table: LayerTable) -> None:
        if self.head.traits.needs_calibration:
            self.head.calibrate(table)

    def recalibrate(self, table: LayerTable) -> None:
        self.head.recalibrate(table)

    def set_progress(self, progress: float) -> None:
        self.head.set_progress(progress)

    def observe(self, output: RouterOutput) -> None:
        self.head.observe(output)

    def after_step(self) -> None:
        self.head.after_step()

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        return self.head.router_weight(weight_ED)

    def fold(self, router: StockRouter) -> StockRouter:
        """Fold the inner head, if nothing of it is changed here; a wrapper that changes something says how it folds."""
        own = [name for name in STAGES if getattr(type(self), name) is not getattr(WrapperHead, name)]
        if own:
            some = "it acts on some questions and leaves others to the pretrained router"
            raise unfoldable(type(self).__name__, some if self.chooses() else f"its own {', '.join(own)}")
        return self.head.fold(router)


def _inner_names(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Take the inner head's part out of the names of its tensors."""
    inner = f"{prefix}head."
    for name in [one for one in state if one.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)
