"""Putting router heads into a base model: attach, freeze, count and prove what is trainable, detach."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.layer_view import LayerView
from moe_tune.gates.panel import head_rows, interleaved
from moe_tune.gates.tuned_experts import TunedExperts
from moe_tune.heads.base import BaseGate, RouterHead, decide
from moe_tune.routing import Decision, RouterOutput, RoutingTrace, Scope, ScoringRule
from moe_tune.routing.layer_choice import choose_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moe_tune.models.family import ModelFamily

RoutingDtype = Literal["float32", "native"]
"""``float32`` routes in float32 with ties towards the lower index; ``native`` has the base model's own numerics."""
BESIDE = "adapter."
"""What the checkpoint names of an adapter's tensors begin with."""
EXTRAS = frozenset({"hidden", "base_logits"})
"""What a loss or metric may declare as ``needs``."""


class Companion(Protocol):
    """What may be trained in the model beside the heads: an adapter."""

    parameters: dict[str, nn.Parameter]

    def off(self) -> AbstractContextManager[None]:
        """Let the model be what it was without it, for as long as the context lasts."""
        ...

    def train(self, mode: bool) -> None:
        """Put what it holds, such as dropout, into a mode."""
        ...


class Session:
    """What the tuned gates of one model share: the trace of the forward pass, the scope and the numerics."""

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


class TunedRouters:
    """The routers of a base model, with heads on chosen layers and everything else frozen.

    Every MoE layer gets a ``TunedGate``, so that a trace covers the whole model; only the chosen ones carry a head.
    A forward call of the model opens and closes the trace by itself.

    Args:
        model: A causal language model of transformers; changed in place until ``detach``.
        family: Its family.
        head: The head prototype.
        layers: ``all``, ``last-N``, or layer indices.
        scope: Where the heads act.
        routing_dtype: Numerics of the routing.
        needs: Costly extras that losses and metrics declared.

    Raises:
        ConfigError: The layers do not exist, an extra is unknown, or several parts of the head mix expert outputs.
        ModelError: The model has tuned gates already.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        family: "ModelFamily",
        head: RouterHead,
        layers: str | list[int] = "last-5",
        scope: Scope = "answer",
        routing_dtype: RoutingDtype = "float32",
        needs: Iterable[str] = (),
    ) -> None:
        self.model, self.family = model, family
        self.session = Session(scope, routing_dtype, frozenset(needs))
        blocks = family.moe_layers(model)
        self.layers = choose_layers(layers, list(blocks))
        head.mixer()  # refuses a head it cannot serve before anything is changed
        if self.session.needs - EXTRAS:
            raise ConfigError(f"expected extras of {sorted(EXTRAS)} but got {sorted(self.session.needs)} (needs).")
        if any(isinstance(module, TunedGate) for module in model.modules()):
            raise ModelError("expected stock gates but the model has tuned ones already. Hint: detach them first.")
        self.companion: Companion | None = None
        """An adapter that is trained beside the heads; its tensors are kept with theirs."""
        self.gates: dict[int, TunedGate] = {}
        self._stock: list[tuple[nn.Module, str, nn.Module]] = []
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        for index, block in blocks.items():
            stock = block.get_submodule(family.gate_path)
            chosen = head if index in self.layers else None
            gate = self.gates[index] = tuned_gate(stock, family.rule(stock), index, chosen, self.session)
            self._replace(block, family.gate_path, gate)
            if gate.head is not None and (mixer := gate.head.mixer()) is not None:
                experts = TunedExperts(block.get_submodule(family.experts_path), mixer, index, self.session)
                self._replace(block, family.experts_path, experts)
        self._hooks = (
            model.base_model.register_forward_pre_hook(self._open, with_kwargs=True),
            model.base_model.register_forward_hook(self._close, always_call=True),
        )

    def compare(self, heads: list[dict[int, RouterHead]]) -> None:
        """Let several heads act side by side on answer tokens, each on a token of its own; ``[]`` ends it.

        Args:
            heads: Bound heads by layer; the pretrained router decides where one has none.
        """
        for layer in {layer for one in heads for layer, head in one.items() if head.mixer() is not None}:
            block = self.family.moe_layers(self.model)[layer]
            experts = block.get_submodule(self.family.experts_path)
            if not isinstance(experts, TunedExperts):
                self._replace(block, self.family.experts_path, TunedExperts(experts, None, layer, self.session))
        self.session.panel = heads

    @property
    def heads(self) -> dict[int, RouterHead]:
        """The bound heads by layer."""
        return {index: gate.head for index, gate in self.gates.items() if gate.head is not None}

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Let the model be the pretrained one, for as long as the context lasts."""
        before, self.session.bypassed = self.session.bypassed, True
        try:
            with nullcontext() if self.companion is None else self.companion.off():
                yield
        finally:
            self.session.bypassed = before

    @property
    def views(self) -> dict[int, LayerView]:
        """What losses may see of each layer beside its trace."""
        blocks = self.family.moe_layers(self.model)
        return {
            index: LayerView(
                pretrained_ED=gate.pretrained[0],
                head=gate.head,
                experts=blocks[index].get_submodule(self.family.experts_path),
                adapted=blocks[index].get_submodule(self.family.gate_path) is not gate,
            )
            for index, gate in self.gates.items()
        }

    @property
    def rule(self) -> ScoringRule:
        """The scoring rule of the routers (the same in every layer of the supported families)."""
        return next(iter(self.gates.values())).rule

    @property
    def trace(self) -> RoutingTrace:
        """The trace of the last forward call."""
        if self.session.trace is None:
            raise ModelError("expected a forward call before its trace is read but there was none.")
        return self.session.trace

    def _replace(self, block: nn.Module, path: str, new: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        owner = block.get_submodule(parent)
        self._stock.append((owner, name, getattr(owner, name)))
        setattr(owner, name, new)

    def detach(self) -> None:
        """Put the stock gates and experts back; the model is then what it was, but for an adapter, which stays."""
        for owner, name, stock in self._stock:
            setattr(owner, name, stock)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        for hook in self._hooks:
            hook.remove()

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by their checkpoint name, ``layers.<index>.<parameter>``."""
        heads = {
            f"layers.{index}.{name}": parameter
            for index, head in self.heads.items()
            for name, parameter in head.named_parameters()
            if parameter.requires_grad
        }
        return heads | self._beside()

    def _beside(self) -> dict[str, nn.Parameter]:
        parameters = {} if self.companion is None else self.companion.parameters
        return {f"{BESIDE}{name}": parameter for name, parameter in parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the heads' parameters and buffers, and an adapter's parameters, by checkpoint name."""
        heads = {
            f"layers.{index}.{name}": value
            for index, head in self.heads.items()
            for name, value in head.state_dict().items()
        }
        return heads | {name: parameter.detach() for name, parameter in self._beside().items()}

    def load_state(self, state: dict[str, Tensor], where: str) -> None:
        """Load the heads' state; names and shapes must be exactly those of the heads.

        Args:
            state: Tensors by checkpoint name.
            where: The file they came from, for messages.

        Raises:
            ModelError: A name is missing or unknown, or a shape differs.
        """
        mine = self.state()
        missing, unknown = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
        if missing or unknown:
            raise ModelError(
                f"expected the router tensors of the configured heads but got others ({where}): missing {missing[:6]}, "
                f"unknown {unknown[:6]}. Hint: use the head and layers the checkpoint was made with (its config.yaml)."
            )
        for name, value in state.items():
            if mine[name].shape != value.shape:
                raise ModelError(
                    f"expected shape {tuple(mine[name].shape)} but got {tuple(value.shape)} for {name} ({where}). "
                    "Hint: the checkpoint belongs to another base model."
                )
        with torch.no_grad():
            for name, value in state.items():
                mine[name].copy_(value)

    def frozen_hashes(self) -> dict[str, str]:
        """Return sha256 of every frozen tensor of the model by name; equal before and after a fit, they prove it."""
        heads = {id(value) for head in self.heads.values() for value in [*head.parameters(), *head.buffers()]}
        heads |= {id(parameter) for parameter in self._beside().values()}
        return {
            # What a head or an adapter has wrapped are the same tensors under the same name.
            re.sub(r"(\.stock|\.base_layer)+\.", ".", name): hashlib.sha256(
                value.detach().cpu().contiguous().view(torch.uint8).numpy().data
            ).hexdigest()
            for name, value in [*self.model.named_parameters(), *self.model.named_buffers()]
            if id(value) not in heads
        }

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        # In generation the mask also covers the cached positions; the current ones are the last.
        self.session.trace = RoutingTrace.of_batch(mask[:, -tokens.shape[1] :], self.session.needs)

    def _close(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if self.session.trace is not None:
            self.session.trace.is_open = False
