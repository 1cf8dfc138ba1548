"""A stock gate with a router head on it."""

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ModelError
from moe_tune.gates.assembled import assembled, widened
from moe_tune.gates.session import Acting, Session
from moe_tune.heads.base import BaseGate, RouterHead, decide
from moe_tune.models.family import ModelFamily
from moe_tune.routing import RouterOutput


class TunedGate(nn.Module):
    """A stock gate with a router head on it; returns what the stock gate returns, ``(logits, weights, experts)``.

    Its class is mixed with the family's own gate class (``tuned_gate``), so that features of transformers that look for
    that class still find it. Outside the scope, and where no head is given, the pretrained router decides.

    Args:
        stock: The gate it replaces; the weight is shared, not copied.
        family: Its family, which knows the logits and the rule.
        layer: Index of the layer in the model.
        head: A head prototype, or ``None`` for a layer that is only observed.
        session: Shared with the other gates of the model.
        first: Whether no layer below it gets the head.
    """

    weight: Tensor

    def _adopt(
        self, stock: nn.Module, family: ModelFamily, layer: int, head: RouterHead | None, session: Session, first: bool
    ) -> None:
        self.__dict__.update({key: value for key, value in stock.__dict__.items() if not key.startswith("_")})
        # transformers hooks the gates of a model once; sharing the hooks lets it find whichever gate is in place.
        self._forward_hooks = stock._forward_hooks
        # All that the router has, so that the family's logits leave nothing out.
        self._parameters.update(stock._parameters)
        self._modules.update(stock._modules)
        self._buffers = stock._buffers  # one dict: moved to another device, they are for both
        self.pretrained = [self.weight]  # in a list: an adapter may put its own changes over the attribute
        self.stock = [stock]
        self.family, self.rule, self.layer, self.session = family, family.rule(stock), layer, session
        gate = BaseGate(self.weight, self.rule, layer, first)
        self.head = None if head is None else head.bound_to(gate).train(stock.training)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route a batch.

        Shape:
            - returns ``logits_TE``, ``weights_TK`` in the input's dtype (native: the logits'), ``experts_TK``.
        """
        hidden_TD = hidden_states.reshape(-1, hidden_states.shape[-1])
        if self.session.routing_dtype == "native":
            output = self._route(hidden_TD, native=True)
            # Under autocast the logits, and so the stock gate's weights, are of lower precision than the input.
            return output.logits_TE, output.weights_TK.to(output.logits_TE.dtype), output.experts_TK
        with torch.autocast(hidden_TD.device.type, enabled=False):  # it would route in half precision
            output = self._route(hidden_TD, native=False)
        return output.logits_TE, output.weights_TK.to(hidden_TD.dtype), output.experts_TK

    def _route(self, hidden_TD: Tensor, *, native: bool) -> RouterOutput:
        """Decide for every token, and record it."""
        session, trace = self.session, self.session.trace
        reading_TD = hidden_TD if native else hidden_TD.float()
        logits_TE = self.family.logits(self, reading_TD)
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
        if "own_probs" in trace.needs and reading_TD.requires_grad:
            own_probs_TE = self._own_probs(acting, reading_TD, trace.real_T, native)
        output = self._decided(acting, reading_TD, logits_TE, trace.real_T, native)
        if "base_logits" in trace.needs:
            adapted = self.weight is not self.pretrained[0]
            output.base_logits_TE = self.family.logits(self.stock[0], reading_TD) if adapted else logits_TE
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

    def _own_probs(self, acting: Acting, reading_TD: Tensor, real_T: Tensor, native: bool) -> Tensor:
        """Return the probabilities with a gradient to this layer's head and router alone."""
        reading_TD = reading_TD.detach()
        # The decision itself, which comes after, draws the same noise.
        with torch.random.fork_rng([reading_TD.device] if reading_TD.is_cuda else []):
            return self._decided(acting, reading_TD, self.family.logits(self, reading_TD), real_T, native).probs_TE

    def _decided(
        self, acting: Acting, reading_TD: Tensor, logits_TE: Tensor, real_T: Tensor, native: bool
    ) -> RouterOutput:
        """Let everybody decide on the tokens that are theirs, and put it together."""
        rows, tokens = [where for _, where in acting], len(reading_TD)
        parts = [  # what only a head reads is cut out for heads alone: it is the largest
            decide(head, self.rule, reading_TD if head is None else reading_TD[at], logits_TE[at], stock_ties=native)
            for head, at in acting
        ]
        widest = max(one.experts_TK.shape[1] for one in parts)
        weights, experts, used = zip(*(widened(one, widest) for one in parts), strict=True)
        used_TK = None
        if any(one is not None for one in used):
            every = (torch.ones_like(one, dtype=torch.bool) for one in experts)
            given = [full if one is None else one for one, full in zip(used, every, strict=True)]
            used_TK = assembled(given, rows, tokens)
        return RouterOutput(
            logits_TE=assembled([one.logits_TE.to(logits_TE.dtype) for one in parts], rows, tokens),
            probs_TE=assembled([one.probs_TE for one in parts], rows, tokens),
            weights_TK=assembled(list(weights), rows, tokens),
            experts_TK=assembled(list(experts), rows, tokens),
            mask_T=real_T,
            layer=self.layer,
            used_TK=used_TK,
            rule=self.rule,
        )


_CLASSES: dict[type, type[TunedGate]] = {}


def tuned_gate(
    stock: nn.Module, family: ModelFamily, layer: int, head: RouterHead | None, session: Session, first: bool
) -> TunedGate:
    """Return a ``TunedGate`` whose class also inherits the stock gate's class."""
    stock_class = type(stock)
    if stock_class not in _CLASSES:
        _CLASSES[stock_class] = type(f"Tuned{stock_class.__name__}", (TunedGate, stock_class), {})
    gate: TunedGate = _CLASSES[stock_class].__new__(_CLASSES[stock_class])
    nn.Module.__init__(gate)
    gate._adopt(stock, family, layer, head, session, first)
    return gate
