"""Putting router heads into a base model: attach, freeze, count and prove what is trainable, detach."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.layer_view import LayerView
from moe_tune.gates.session import RoutingDtype, Session
from moe_tune.gates.tuned_experts import TunedExperts
from moe_tune.gates.tuned_gate import TunedGate, tuned_gate
from moe_tune.heads.base import RouterHead
from moe_tune.routing import RoutingTrace, Scope, ScoringRule
from moe_tune.routing.layer_choice import choose_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moe_tune.models.family import ModelFamily

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
        for index, block in blocks.items():
            family.prove(block, index)
        self.companion: Companion | None = None
        """An adapter that is trained beside the heads; its tensors are kept with theirs."""
        self.gates: dict[int, TunedGate] = {}
        self._stock: list[tuple[nn.Module, str, nn.Module]] = []
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        for index, block in blocks.items():
            stock = block.get_submodule(family.gate_path)
            chosen = head if index in self.layers else None
            gate = self.gates[index] = tuned_gate(stock, family, index, chosen, self.session)
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
        """The scoring rule of the first router: E and K, which every layer shares; each gate has a rule of its own."""
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
