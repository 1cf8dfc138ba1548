"""A stock gate with a router head on it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.base.errors import ModelError
from moe_tune.gates.panel import head_rows, interleaved
from moe_tune.gates.session import Session
from moe_tune.heads.base import BaseGate, RouterHead, decide
from moe_tune.routing import Decision, RouterOutput, RoutingTrace, ScoringRule


class TunedGate(nn.Module):
    """A stock gate with a router head on it; returns what the stock gate returns, ``(logits, weights, experts)``.

    Its class is mixed with the family's own gate class (``tuned_gate``), so that features of transformers that look for
    that class still find it. Outside the scope, and where no head is given, the pretrained router decides.

    Args:
        stock: The gate it replaces; the weight is shared, not copied.
        rule: The family's scoring rule.
        layer: Index of the layer in the model.
        head: A head prototype, or ``None`` for a layer that is only observed.
        session: Shared with the other gates of the model.
    """

    weight: Tensor

    def _adopt(
        self, stock: nn.Module, rule: ScoringRule, layer: int, head: RouterHead | None, session: Session
    ) -> None:
        self.__dict__.update({key: value for key, value in stock.__dict__.items() if not key.startswith("_")})
        # transformers hooks the gates of a model once; sharing the hooks lets it find whichever gate is in place.
        self._forward_hooks = stock._forward_hooks
        self.weight = stock.get_parameter("weight")
        self.pretrained = [self.weight]  # in a list: an adapter may put its own changes over the attribute
        self.rule, self.layer, self.session = rule, layer, session
        self.head = None if head is None else head.bound_to(BaseGate(self.weight, rule, layer)).train(stock.training)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Route a batch.

        Args:
            hidden_states: The router's input, (..., D).

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
        session = self.session
        reading_TD = hidden_TD if native else hidden_TD.float()
        logits_TE = functional.linear(reading_TD, self.weight.to(reading_TD.dtype))
        trace = session.trace
        if trace is None or len(trace.real_T) != len(hidden_TD):
            raise ModelError(
                f"expected a batch seen by the model's own forward call but got {len(hidden_TD)} other tokens "
                f"(gate of layer {self.layer}). Hint: call the whole model, not a part of it."
            )
        if trace.answer_only:
            output = self._answers(reading_TD, logits_TE, trace, native)
        else:
            output = self._prompts(reading_TD, logits_TE, trace, native)
        if "base_logits" in trace.needs:
            pretrained_ED = self.pretrained[0].detach().to(reading_TD.dtype)
            adapted = self.weight is not self.pretrained[0]
            output.base_logits_TE = functional.linear(reading_TD, pretrained_ED) if adapted else logits_TE
        if "hidden" in trace.needs:
            output.hidden_TD = hidden_TD
        if self.head is not None and self.head.training and trace.is_open and not session.bypassed:
            with torch.no_grad():  # gradient checkpointing counts what the graph keeps, and does this once
                self.head.observe(output.rows(trace.mask(session.scope)))
        trace.record(output)
        return output

    def _prompts(self, reading_TD: Tensor, logits_TE: Tensor, trace: RoutingTrace, native: bool) -> RouterOutput:
        """Decide for every token of whole prompts; the head acts within the scope."""
        base = decide(_NO_HEAD, self.rule, reading_TD, logits_TE, stock_ties=native)
        decided_TE, probs_TE, weights_TK = base.logits_TE, base.probs_TE, base.weights_TK
        experts_TK, used_TK = base.experts_TK, base.used_TK
        if self.head is not None and not self.session.bypassed:
            acts_T = trace.mask(self.session.scope)
            tuned = decide(self.head, self.rule, reading_TD[acts_T], logits_TE[acts_T], stock_ties=native)
            place = (acts_T.nonzero().squeeze(-1),)
            decided_TE = decided_TE.index_put(place, tuned.logits_TE.to(decided_TE.dtype))
            probs_TE = probs_TE.index_put(place, tuned.probs_TE)
            base_weights_TK, base_experts_TK, base_used_TK = widened(base, tuned.experts_TK.shape[1])
            weights_TK = base_weights_TK.index_put(place, tuned.weights_TK)
            experts_TK = base_experts_TK.index_put(place, tuned.experts_TK)
            if tuned.used_TK is not None or base_used_TK is not None:
                every_TK = torch.ones_like(experts_TK, dtype=torch.bool)
                tuned_used_TK = every_TK[acts_T] if tuned.used_TK is None else tuned.used_TK
                used_TK = (every_TK if base_used_TK is None else base_used_TK).index_put(place, tuned_used_TK)
        return RouterOutput(decided_TE, probs_TE, weights_TK, experts_TK, trace.real_T, self.layer, used_TK)

    def _answers(self, reading_TD: Tensor, logits_TE: Tensor, trace: RoutingTrace, native: bool) -> RouterOutput:
        """Decide for answer tokens alone, where every head that is compared acts on a token of its own."""
        heads = self.session.heads_at(self.layer, self.head)
        parts = [
            decide(head or _NO_HEAD, self.rule, reading_TD[rows], logits_TE[rows], stock_ties=native)
            for head, rows in zip(heads, head_rows(len(heads)), strict=True)
        ]
        widest = max(one.experts_TK.shape[1] for one in parts)
        slots = [widened(one, widest) for one in parts]
        used_TK = None
        if any(used is not None for _, _, used in slots):
            used_TK = interleaved(
                [torch.ones_like(experts, dtype=torch.bool) if used is None else used for _, experts, used in slots]
            )
        return RouterOutput(
            logits_TE=interleaved([one.logits_TE.to(logits_TE.dtype) for one in parts]),
            probs_TE=interleaved([one.probs_TE for one in parts]),
            weights_TK=interleaved([weights for weights, _, _ in slots]),
            experts_TK=interleaved([experts for _, experts, _ in slots]),
            mask_T=trace.real_T,
            layer=self.layer,
            used_TK=used_TK,
        )


def widened(decision: Decision, slots: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return weights, experts and used slots of a decision with more slots; the spare ones repeat the first expert.

    Args:
        decision: A routing decision.
        slots: Slots wanted, at least as many as it has.
    """
    weights_TK, experts_TK, used_TK = decision.weights_TK, decision.experts_TK, decision.used_TK
    spare = slots - experts_TK.shape[1]
    if not spare:
        return weights_TK, experts_TK, used_TK
    every_TK = torch.ones_like(experts_TK, dtype=torch.bool)
    return (
        functional.pad(weights_TK, (0, spare)),
        torch.cat([experts_TK, experts_TK[:, :1].expand(-1, spare)], dim=1),
        functional.pad(every_TK if used_TK is None else used_TK, (0, spare)),
    )


class _NoHead(RouterHead):
    """The pretrained router's own decision, for tokens that no head acts on."""

    traits = None  # type: ignore[assignment]


_NO_HEAD = _NoHead()
_CLASSES: dict[type, type[TunedGate]] = {}


def tuned_gate(stock: nn.Module, rule: ScoringRule, layer: int, head: RouterHead | None, session: Session) -> TunedGate:
    """Return a ``TunedGate`` whose class also inherits the stock gate's class."""
    stock_class = type(stock)
    if stock_class not in _CLASSES:
        _CLASSES[stock_class] = type(f"Tuned{stock_class.__name__}", (TunedGate, stock_class), {})
    gate: TunedGate = _CLASSES[stock_class].__new__(_CLASSES[stock_class])
    nn.Module.__init__(gate)
    gate._adopt(stock, rule, layer, head, session)
    return gate
