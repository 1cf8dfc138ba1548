"""A stock gate with a router head on it."""

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ModelError
from moe_tune.gates.assembled import assembled, widened
from moe_tune.gates.session import Acting, Session
from moe_tune.heads.base import BaseGate, RouterHead, decide
from moe_tune.models.family import ModelFamily
from moe_tune.models.gate_replay import GateReplay
from moe_tune.routing import RouterOutput, ScoringRule


class TunedGate(nn.Module):
    """A stock gate with a router head on it; returns what the stock gate returns, ``(logits, weights, experts)``.

    Its class is mixed with the family's own gate class (``tuned_gate``), so that features of transformers that look for
    that class still find it. Outside the scope, and where no head is given, the pretrained router decides.

    Args:
        replay: The gate it replaces; its weight is shared, not copied.
        family: Its family, which knows the logits.
        rule: Its scoring rule.
        head: A head prototype, or ``None`` for a layer that is only observed.
        session: Shared with the other gates of the model.
        first: Whether no layer below it gets the head.
    """

    def _adopt(
        self,
        replay: GateReplay,
        family: ModelFamily,
        rule: ScoringRule,
        head: RouterHead | None,
        session: Session,
        first: bool,
    ) -> None:
        stock = replay.gate
        self.__dict__.update({key: value for key, value in stock.__dict__.items() if not key.startswith("_")})
        # transformers hooks the gates of a model once; sharing the hooks lets it find whichever gate is in place.
        self._forward_hooks = stock._forward_hooks
        # All that the router has, so that the family's logits leave nothing out.
        self._parameters.update(stock._parameters)
        self._modules.update(stock._modules)
        self._buffers = stock._buffers  # one dict: moved to another device, they are for both
        # In a list: an adapter may put its own changes over the attribute.
        self.pretrained = [replay.weight(self)]
        self.stock = [stock]
        self.replay, self.family, self.rule, self.layer, self.session = replay, family, rule, replay.layer, session
        gate = BaseGate(self.pretrained[0], rule, replay.layer, first)
        self.head = None if head is None else head.bound_to(gate).train(stock.training)

    def forward(self, hidden_states: Tensor, *beside: Tensor | None, **named: Tensor | None) -> Any:
        """Route a batch.

        Args:
            hidden_states: The router's input.
            beside: What its block passes beside them: tensors of its own.
            named: The same, by name.

        Shape:
            - returns ``logits_TE``, ``weights_TK`` in the input's dtype (native: the stock gate's), ``experts_TK``.
        """
        known = self.replay.tensors_beside()
        if any(one is not None and all(one is not other for other in known) for one in (*beside, *named.values())):
            raise ModelError(
                f"expected hidden states and {self.replay.beside or 'nothing else'} but got other tensors beside them "
                f"(gate of layer {self.layer}, {type(self.stock[0]).__name__})."
            )
        hidden_TD = hidden_states.reshape(-1, hidden_states.shape[-1])
        if self.session.routing_dtype == "native":
            output = self._route(hidden_TD, native=True)
            # Under autocast the logits, and so the stock gate's weights, are of lower precision than the input.
            as_stock = hidden_TD.dtype == self.replay.dtype and not torch.is_autocast_enabled(hidden_TD.device.type)
            dtype = self.replay.weights_dtype if as_stock else output.logits_TE.dtype
            return output.logits_TE, output.weights_TK.to(dtype), output.experts_TK
        with torch.autocast(hidden_TD.device.type, enabled=False):  # it would route in half precision
            output = self._route(hidden_TD, native=False)
        return output.logits_TE, output.weights_TK.to(hidden_TD.dtype), output.experts_TK

    def _route(self, hidden_TD: Tensor, *, native: bool) -> RouterOutput:
        """Decide for every token, and record it."""
        session, trace = self.session, self.session.trace
        before_TD = hidden_TD if native else hidden_TD.float()
        logits_TE, reading_TD = self._projected(before_TD)
        if trace is None or len(trace.real_T) != len(hidden_TD):
            raise ModelError(
                f"expected a batch seen by the model's own forward call but got {len(hidden_TD)} other tokens "
                f"(gate of layer {self.layer}). Hint: call the whole model, not a part of it."
            )
        session.ask(self.layer, self.head, trace, reading_TD)
        acting = session.acting(self.layer, self.head, trace)
        for head, rows in acting:
            if head is not None:
                head.meet(trace, rows)
        own_probs_TE = None
        if "own_probs" in trace.needs and before_TD.requires_grad:
            own_probs_TE = self._own_probs(acting, before_TD, trace.real_T, native)
        output = self._decided(acting, reading_TD, logits_TE, trace.real_T, native)
        if "base_logits" in trace.needs:
            output.base_logits_TE = self._stock_logits(before_TD) if self.adapted() else logits_TE
        if "hidden" in trace.needs:
            output.hidden_TD = hidden_TD
        if "own_probs" in trace.needs:
            output.own_probs_TE = output.probs_TE if own_probs_TE is None else own_probs_TE
        for head, rows in acting:
            if head is not None and head.training and trace.is_open:
                with torch.no_grad():  # gradient checkpointing counts what the graph keeps, and does this once
                    head.observe(output.rows(rows))
        trace.record(output)
        return output

    def adapted(self) -> bool:
        """Whether an adapter changes the projection."""
        stock = self.stock[0]
        parts = any(self._modules.get(name) is not one for name, one in stock._modules.items())
        return parts or self.replay.weight(self) is not self.pretrained[0]

    def _projected(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the router's logits and what its projection reads."""
        return self.family.project(self.replay, self, super().forward, hidden_TD)

    def _stock_logits(self, hidden_TD: Tensor) -> Tensor:
        stock = self.stock[0]
        return self.family.project(self.replay, stock, stock.forward, hidden_TD)[0]

    def _own_probs(self, acting: Acting, hidden_TD: Tensor, real_T: Tensor, native: bool) -> Tensor:
        """Return the probabilities with a gradient to this layer's head and router alone."""
        # The decision itself, which comes after, draws the same noise.
        with torch.random.fork_rng([hidden_TD.device] if hidden_TD.is_cuda else []):
            logits_TE, reading_TD = self._projected(hidden_TD.detach())
            return self._decided(acting, reading_TD, logits_TE, real_T, native).probs_TE

    def _decided(
        self, acting: Acting, reading_TD: Tensor, logits_TE: Tensor, real_T: Tensor, native: bool
    ) -> RouterOutput:
        """Let everybody decide on the tokens that are theirs, and put it together."""
        rows, tokens = [where for _, where in acting], len(reading_TD)
        # The last bit of a sigmoid may depend on how many numbers there are: the model's own numerics are those of all.
        whole = native and len(acting) > 1 and not self.rule.by_row
        cut = [slice(None) if whole else where for where in rows]
        parts = [  # what only a head reads is cut out for heads alone: it is the largest
            decide(head, self.rule, reading_TD if head is None else reading_TD[at], logits_TE[at], stock_ties=native)
            for (head, _), at in zip(acting, cut, strict=True)
        ]
        widest = max(one.experts_TK.shape[1] for one in parts)
        weights, experts, used = zip(*(widened(one, widest) for one in parts), strict=True)
        finest = reduce(torch.promote_types, (one.dtype for one in weights))  # a head's weights are float32

        def together(tensors: Iterable[Tensor]) -> Tensor:
            mine = [one[at] for one, at in zip(tensors, rows, strict=True)] if whole else list(tensors)
            return assembled(mine, rows, tokens)

        used_TK = None
        if any(one is not None for one in used):
            every = (torch.ones_like(one, dtype=torch.bool) for one in experts)
            used_TK = together(full if one is None else one for one, full in zip(used, every, strict=True))
        return RouterOutput(
            logits_TE=together(one.logits_TE.to(logits_TE.dtype) for one in parts),
            probs_TE=together(one.probs_TE for one in parts),
            weights_TK=together(one.to(finest) for one in weights),
            experts_TK=together(experts),
            mask_T=real_T,
            layer=self.layer,
            used_TK=used_TK,
            rule=self.rule,
        )


_CLASSES: dict[type, type[TunedGate]] = {}


def tuned_gate(
    replay: GateReplay,
    family: ModelFamily,
    rule: ScoringRule,
    head: RouterHead | None,
    session: Session,
    first: bool,
) -> TunedGate:
    """Return a ``TunedGate`` whose class also inherits the stock gate's class."""
    stock_class = type(replay.gate)
    if stock_class not in _CLASSES:
        _CLASSES[stock_class] = type(f"Tuned{stock_class.__name__}", (TunedGate, stock_class), {})
    gate: TunedGate = _CLASSES[stock_class].__new__(_CLASSES[stock_class])
    nn.Module.__init__(gate)
    gate._adopt(replay, family, rule, head, session, first)
    return gate
