"""Stack: several heads, one after the other."""

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ConfigError, require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead, combined_traits
from moe_tune.routing import Decision, LayerTable, RouterOutput, RoutingTrace, Rows, ScoringRule, StockRouter


class Stack(RouterHead):
    """Applies named heads in order: first all their scoring stages, then selection, then weighing.

    It starts as the pretrained router if all its parts do. There are as many slots as the widest part needs; one is
    used if no part leaves it empty. Parts that act in training alone do so here.

    Args:
        parts: Name to head; the names address a part on the command line and in sweeps
            (``--model.head.parts.temperature.tau 0.5``) and in checkpoints.

    Raises:
        ConfigError: There is no part, a name is not a plain word, or a part would discard what one before it did.

    Example:
        >>> from moe_tune.heads.identity import IdentityHead
        >>> Stack({"first": IdentityHead()}).traits.exact_start
        True
    """

    def __init__(self, parts: dict[str, RouterHead]) -> None:
        super().__init__()
        if not parts:
            raise ConfigError(
                "expected at least one head but got none (head.parts). Hint: parts: {name: {class_path: ...}}."
            )
        for name in parts:
            plain = name.isidentifier() and not hasattr(nn.ModuleDict(), name)  # torch refuses names such as "type"
            require(plain, "a plain word", name, "head.parts", "use letters and _.")
        for name, part in list(parts.items())[1:]:
            if part.traits.replaces_logits:
                raise ConfigError(
                    f"expected {type(part).__name__} first but got it after others (head.parts.{name}): "
                    "it computes its own logits and would discard theirs. Hint: move it to the front."
                )
        tempering = [name for name, part in parts.items() if part.traits.replaces_probabilities]
        expected = "at most one head that computes the probabilities anew (the last would discard the others)"
        hint = "two temperatures in a row are one, their product."
        require(len(tempering) < 2, expected, tempering, "head.parts", hint)
        self._refuse_undoing(parts)
        pinned = [name for name, part in parts.items() if part.traits.knows_tokens]
        if pinned and any(part.bars_experts() for part in parts.values()):
            raise ConfigError(
                f"expected experts of a file or experts that may not be chosen but got both (head.parts.{pinned[0]}): "
                "the file would bring them back. Hint: leave one of them out."
            )
        self.parts = nn.ModuleDict(parts)

    @staticmethod
    def _refuse_undoing(parts: dict[str, RouterHead]) -> None:
        """Refuse parts that would read another's stage as what it no longer is."""
        given = list(parts.items())
        for place, (name, part) in enumerate(given):
            for later_name, later in given[place + 1 :]:
                selects = later.traits.selects_by_probability or later.changes_selection()
                if part.traits.selects_by_probability and selects:
                    raise ConfigError(
                        f"expected no selection after {type(part).__name__} but got {type(later).__name__} "
                        f"(head.parts.{later_name}): it would add logits to probabilities. Hint: put {name} last."
                    )
                if part.changes_weights() and later.traits.replaces_weights:
                    raise ConfigError(
                        f"expected {type(later).__name__} before {type(part).__name__} but got it after "
                        f"(head.parts.{later_name}): it sets the weights anew. Hint: move it in front of {name}."
                    )

    def _heads(self) -> list[RouterHead]:
        return [part for part in self.parts.values() if isinstance(part, RouterHead)]

    @property
    def traits(self) -> HeadTraits:
        return combined_traits([part.traits for part in self._heads()])

    def bind(self, gate: BaseGate) -> None:
        for part in self._heads():
            part.bind(gate)

    def meet(self, trace: RoutingTrace, rows: Rows) -> None:
        for part in self._heads():
            part.meet(trace, rows)

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        for part in self._heads():
            logits_TE = part.score(hidden_TD, logits_TE)
        return logits_TE

    def select(self, scores_TE: Tensor) -> Tensor:
        for part in self._heads():
            scores_TE = part.select(scores_TE)
        return scores_TE

    def changes_selection(self) -> bool:
        return any(part.changes_selection() for part in self._heads())

    def changes_weights(self) -> bool:
        return any(part.changes_weights() for part in self._heads())

    def slots_for(self, rule: ScoringRule) -> int:
        return max(part.slots_for(rule) for part in self._heads())

    def allowed(self, rule: ScoringRule) -> ScoringRule:
        for part in self._heads():
            rule = part.allowed(rule)
        return rule

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor | None:
        limits = [part.admit(logits_TE, probs_TE, experts_TK) for part in self._heads()]
        given = [used_TK for used_TK in limits if used_TK is not None]
        return torch.stack(given).all(0) if given else None

    def weigh(self, decision: Decision) -> Decision:
        for part in self._heads():
            decision = part.weigh(decision)
        return decision

    def calibrate(self, table: LayerTable) -> None:
        for part in self._heads():
            if part.traits.needs_calibration:
                part.calibrate(table)

    def recalibrate(self, table: LayerTable) -> None:
        for part in self._heads():
            part.recalibrate(table)

    def set_progress(self, progress: float) -> None:
        for part in self._heads():
            part.set_progress(progress)

    def observe(self, output: RouterOutput) -> None:
        for part in self._heads():
            part.observe(output)

    def after_step(self) -> None:
        for part in self._heads():
            part.after_step()

    def router_weight(self, weight_ED: Tensor) -> Tensor | None:
        now_ED: Tensor | None = weight_ED
        for part in self._heads():
            now_ED = None if now_ED is None else part.router_weight(now_ED)
        return now_ED

    def fold(self, router: StockRouter) -> StockRouter:
        for part in self._heads():
            router = part.fold(router)
        return router
