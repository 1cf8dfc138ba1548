"""Putting router heads into a base model: attach, freeze, count and prove what is trainable, detach."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.base.replaced import replaced
from moe_tune.gates.frozen import fingerprint, hashes_of, refuse_to_save, tensor_hashes
from moe_tune.gates.head_state import copy_state, head_state
from moe_tune.gates.layer_view import LayerView
from moe_tune.gates.session import RoutingDtype, Session
from moe_tune.gates.tuned_experts import TunedExperts
from moe_tune.gates.tuned_gate import TunedGate, tuned_gate
from moe_tune.gates.unserved import refuse_unserved
from moe_tune.gates.vocabulary import logits_by_own_code
from moe_tune.heads.base import BaseGate, RouterHead
from moe_tune.models.adapter import Adapter
from moe_tune.models.family import ModelFamily
from moe_tune.models.proof import prove_router
from moe_tune.routing import RoutingTrace, Scope, ScoringRule
from moe_tune.routing.layer_choice import choose_layers

BESIDE = "adapter."
"""What the checkpoint names of an adapter's tensors begin with."""
MANY_WORDS = 4096
"""Words of a vocabulary whose product costs too little to be left out."""
EXTRAS = frozenset({"hidden", "base_logits", "own_probs"})
"""What a loss or metric may declare as ``needs``."""


class GatedModel:
    """A base model with router heads on chosen layers, perhaps an adapter beside them, and everything else frozen.

    Every MoE layer gets a ``TunedGate``, so that a trace covers the whole model; only the chosen ones carry a head.
    A forward call opens and closes the trace by itself. ``session`` changes what acts and what is recorded.

    Args:
        model: A causal language model of transformers; changed in place until ``detach``.
        family: Its family.
        head: The head prototype.
        layers: ``all``, ``last-N``, or layer indices.
        scope: Where the heads act.
        routing_dtype: Numerics of the routing.
        needs: Costly extras that are recorded outside a session.

    Raises:
        ConfigError: The layers do not exist, an extra is unknown, or several parts of the head mix expert outputs.
        ModelError: The model has tuned gates already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: ModelFamily,
        head: RouterHead,
        layers: str | list[int] = "last-5",
        scope: Scope = "answer",
        routing_dtype: RoutingDtype = "float32",
        needs: Iterable[str] = (),
    ) -> None:
        self.model, self.family = model, family
        self._session = Session(scope, routing_dtype, _extras(needs))
        blocks = family.moe_layers(model)
        self.layers = choose_layers(layers, list(blocks))
        head.mixer()  # refuses a head it cannot serve before anything is changed
        if any(isinstance(module, TunedGate) for module in model.modules()):
            raise ModelError("expected stock gates but the model has tuned ones already. Hint: detach them first.")
        replays = {index: family.replay(block, index) for index, block in blocks.items()}
        rules = {index: family.rule(replay) for index, replay in replays.items()}
        for index, block in blocks.items():
            prove_router(family, block, replays[index], rules[index])
        refuse_unserved(head, list(rules.values()))
        self.adapter: Adapter | None = None
        """A LoRA that is trained beside the heads; its tensors are kept with theirs."""
        self.answers_proved = False
        """Whether the answer path has been proved to give what full prompts give."""
        self.head_name = type(head).__name__
        self.calibrated = False
        """Whether the heads have their state, from a pass over training questions or from a checkpoint."""
        self.calibrated_on: frozenset[str] = frozenset()
        """Content hashes of the questions that heads were fitted to without a gradient; not to be scored on."""
        self.gates: dict[int, TunedGate] = {}
        self._stock: list[tuple[nn.Module, str, nn.Module]] = []
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        for index, block in blocks.items():
            chosen = head if index in self.layers else None
            gate = self.gates[index] = tuned_gate(
                replays[index], family, rules[index], chosen, self._session, index == min(self.layers)
            )
            self._replace(block, family.gate_path, gate)
            if gate.head is not None and (mixer := gate.head.mixer()) is not None:
                experts = TunedExperts(block.get_submodule(family.experts_path), mixer, index, self._session)
                self._replace(block, family.experts_path, experts)
        model.save_pretrained = refuse_to_save
        self._hooks = (
            model.base_model.register_forward_pre_hook(self._open, with_kwargs=True),
            model.base_model.register_forward_hook(self._close, always_call=True),
        )

    def adapt(self, options: dict[str, Any]) -> None:
        """Put a LoRA into the model, beside the heads: the arguments of a ``peft.LoraConfig``.

        Raises:
            ConfigError: PEFT refuses them, or the LoRA changes experts whose outputs a head mixes.
        """
        if "experts" in str(options) and (mixing := [one for one in self.heads.values() if one.mixer() is not None]):
            raise ConfigError(
                f"expected no LoRA on experts whose outputs {type(mixing[0]).__name__} mixes but got one "
                "(model.peft). Hint: put it on attention or routers, or use a head without a mixing part."
            )
        self.adapter = Adapter(self.model, options)
        for block in self.family.moe_layers(self.model).values():
            gate = block.get_submodule(self.family.gate_path)
            # A weight under an adapter stays the gate's; a gate under one as a plain layer would decide no more.
            if not isinstance(gate, TunedGate) and type(gate).__name__ != "ParamWrapper":
                self.adapter.detach()
                self.adapter = None
                raise ConfigError(
                    "expected no LoRA in the place of a router but got one (model.peft.target_modules). "
                    f"Hint: target_parameters: [{self.family.gate_path}.weight]."
                )

    # What acts, and what is recorded

    @contextmanager
    def session(
        self,
        heads: Sequence[Mapping[int, RouterHead]] | None = None,
        scope: Scope | None = None,
        needs: Iterable[str] | None = None,
        *,
        base_only: bool = False,
        everywhere: bool = False,
        answer_BS: Tensor | None = None,
        real_BS: Tensor | None = None,
    ) -> Iterator[Session]:
        """Change what acts in the model and what is recorded of it, for as long as the context lasts.

        What is left out stays as it is around it; the trace of the last forward call stays afterwards.

        Args:
            heads: Bound heads by layer that act side by side on answer tokens, each on a token of its own; the
                pretrained router decides where one has none. ``[]``: each layer's own head. A panel of one acts on
                whole prompts, too, at the scope.
            scope: Where heads act.
            needs: Costly extras of the routing to record: ``hidden``, ``base_logits``, ``own_probs``.
            base_only: Let the model be the pretrained one, without heads and adapter.
            everywhere: Let heads that choose their questions act on all, as they do in training.
            answer_BS: Which tokens of the batches that run are their answer tokens; else each row's last real one.
            real_BS: Which tokens of them are no padding, where the model is called without an attention mask.
        """
        session = self._session
        panel = session.panel if heads is None else [dict(one) for one in heads]
        wanted = session.needs if needs is None else _extras(needs)
        self._mix_for(panel)
        adapter = self.adapter if base_only and not session.bypassed else None
        what: dict[str, Any] = {"scope": scope or session.scope, "bypassed": session.bypassed or base_only}
        what["everywhere"] = session.everywhere or everywhere
        what["answer_BS"] = session.answer_BS if answer_BS is None else answer_BS
        what["real_BS"] = session.real_BS if real_BS is None else real_BS
        with replaced(session, **what, needs=wanted, panel=panel), nullcontext() if adapter is None else adapter.off():
            yield session

    @property
    def heads_per_answer(self) -> int:
        """How many heads act side by side on each question's answer token, N; 1 but for a session with several."""
        return max(1, len(self._session.panel))

    def open_answers(self, questions: int, device: torch.device) -> RoutingTrace:
        """Open the trace of a batch of answer tokens alone, as a forward call opens that of whole prompts."""
        session = self._session
        session.trace = RoutingTrace.of_answers(questions, self.heads_per_answer, device, session.needs)
        return session.trace

    def bind(self, head: RouterHead, layers: str | list[int]) -> dict[int, RouterHead]:
        """Return a head bound to the pretrained router of each chosen layer, for a session; it acts in none yet."""
        gates = {layer: self.gates[layer] for layer in choose_layers(layers, list(self.gates))}
        return {
            layer: head.bound_to(BaseGate(gate.pretrained[0], gate.rule, layer, layer == min(gates)))
            .to(self.device)
            .eval()
            for layer, gate in gates.items()
        }

    def _mix_for(self, panel: list[dict[int, RouterHead]]) -> None:
        for layer in {layer for one in panel for layer, head in one.items() if head.mixer() is not None}:
            block = self.family.moe_layers(self.model)[layer]
            experts = block.get_submodule(self.family.experts_path)
            if not isinstance(experts, TunedExperts):
                self._replace(block, self.family.experts_path, TunedExperts(experts, None, layer, self._session))

    @property
    def training(self) -> bool:
        """Whether the heads train: asked of them, as Lightning restores modes module by module after a validation."""
        return any(head.training for head in self.heads.values())

    def train(self, mode: bool) -> None:
        """Put heads and adapter into training or evaluation mode; the base model stays in evaluation mode."""
        self.model.eval()
        for head in self.heads.values():
            head.train(mode)
        if self.adapter is not None:
            self.adapter.train(mode)

    def __call__(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor | None = None,
        position_B: Tensor | None = None,
        words: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the logits over the vocabulary at one position of each row, (B, V); ``trace`` holds all routing.

        Args:
            input_ids_BS: Tokens.
            attention_mask_BS: 1 for real tokens; ``None`` if all are.
            position_B: The position of each row; ``None`` is its last real token, the answer position.
            words: Token ids whose logits are asked for; ``None`` are all.
        """
        body: Any = self.model.base_model
        hidden_BSD = body(input_ids=input_ids_BS, attention_mask=attention_mask_BS, use_cache=False).last_hidden_state
        place_B = torch.arange(len(hidden_BSD), device=hidden_BSD.device)
        if position_B is None:
            position_B = self.trace.answer_T.nonzero().squeeze(-1) % hidden_BSD.shape[1]
        return self.vocabulary_logits(hidden_BSD[place_B, position_B], words)

    @property
    def can_ask_few_words(self) -> bool:
        """Whether the logits of a few words can be had, and are worth it, without those of the whole vocabulary."""
        words = self.model.get_output_embeddings()
        return self.family.plain_tail and type(words) is nn.Linear and len(words.weight) > MANY_WORDS

    def vocabulary_logits(self, hidden_ND: Tensor, words: Sequence[int] | None = None) -> Tensor:
        """Return the logits over the vocabulary (N, V) of what the body returns (N, D); some families scale them.

        Args:
            hidden_ND: What the body returns.
            words: Token ids that are asked for, where ``can_ask_few_words``; ``None`` are all.
        """
        if words is not None:
            output: Any = self.model.get_output_embeddings()
            asked = torch.tensor(words, device=hidden_ND.device)
            bias = None if output.bias is None else output.bias[asked]
            return functional.linear(hidden_ND, output.weight[asked], bias)
        if self.family.plain_tail:
            logits_NV: Tensor = self.model.get_output_embeddings()(hidden_ND)
            return logits_NV
        trace = self._session.trace
        try:
            return logits_by_own_code(self.model, hidden_ND)
        finally:
            self._session.trace = trace  # the call has opened one of its own

    # What there is

    @property
    def scope(self) -> Scope:
        return self._session.scope

    @property
    def routing_dtype(self) -> RoutingDtype:
        return self._session.routing_dtype

    @property
    def device(self) -> torch.device:
        parameter: nn.Parameter = next(self.model.parameters())
        return parameter.device

    @property
    def heads(self) -> dict[int, RouterHead]:
        """The bound heads by layer."""
        return {index: gate.head for index, gate in self.gates.items() if gate.head is not None}

    @property
    def views(self) -> dict[int, LayerView]:
        """What losses may see of each layer beside its trace."""
        blocks = self.family.moe_layers(self.model)
        return {
            index: LayerView(
                pretrained_ED=gate.pretrained[0],
                head=gate.head,
                experts=blocks[index].get_submodule(self.family.experts_path),
                adapted=blocks[index].get_submodule(self.family.gate_path) is not gate or gate.adapted(),
                # A gate beside the layer's own norms reads what none of them has changed yet.
                one_input="." in self.family.gate_path,
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
        if self._session.trace is None:
            raise ModelError("expected a forward call before its trace is read but there was none.")
        return self._session.trace

    # Attaching, freezing and detaching

    def _replace(self, block: nn.Module, path: str, new: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        owner = block.get_submodule(parent)
        self._stock.append((owner, name, getattr(owner, name)))
        setattr(owner, name, new)

    def detach(self) -> None:
        """Take out the adapter, then put the stock gates and experts back; the model is then what it was."""
        if self.adapter is not None:
            self.adapter.detach()
            self.adapter = None
        for owner, name, stock in self._stock:
            setattr(owner, name, stock)
        for parameter in self._trained:
            parameter.requires_grad_(True)
        for hook in self._hooks:
            hook.remove()
        del self.model.save_pretrained

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by their checkpoint name, ``layers.<index>.<parameter>``."""
        heads = {
            f"layers.{index}.{name}": value
            for index, head in self.heads.items()
            for name, value in head.state_dict(keep_vars=True).items()
            if isinstance(value, nn.Parameter) and value.requires_grad
        }
        return heads | self._beside()

    @property
    def trained_numbers(self) -> int:
        """How many numbers are trained, of heads and adapter."""
        of_adapter = 0 if self.adapter is None else self.adapter.trained_numbers
        return of_adapter + sum(one.numel() for name, one in self.trainable().items() if not name.startswith(BESIDE))

    def _beside(self) -> dict[str, nn.Parameter]:
        parameters = {} if self.adapter is None else self.adapter.parameters
        return {f"{BESIDE}{name}": parameter for name, parameter in parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the heads' parameters and buffers, and an adapter's parameters, by checkpoint name."""
        return head_state(self.heads) | {name: parameter.detach() for name, parameter in self._beside().items()}

    def load_state(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load what ``state`` returned; names and shapes must be exactly those of the heads.

        Args:
            state: Tensors by checkpoint name.
            where: The file they came from, for messages.

        Raises:
            ModelError: A name is missing or unknown, or a shape differs.
        """
        copy_state(self.state(), state, where)
        self.calibrated = True

    @contextmanager
    def other_state(self, state: Mapping[str, Tensor], where: str) -> Iterator[None]:
        """Give the heads another state, as ``load_state`` takes it, for as long as the context lasts."""
        before = {name: value.clone() for name, value in self.state().items()}
        self.load_state(state, where)
        try:
            yield
        finally:
            self.load_state(before, where)

    # Proving what is frozen

    def frozen_hashes(self) -> dict[str, str]:
        """Return sha256 of every frozen tensor of the model by name; equal before and after a fit, they prove it."""
        own = {id(value) for head in self.heads.values() for value in [*head.parameters(), *head.buffers()]}
        return tensor_hashes(self.model, own | {id(parameter) for parameter in self._beside().values()})

    @cached_property
    def hashes_at_load(self) -> dict[str, str]:
        """The frozen tensors' hashes as they were when first asked for, which is when heads have been put on."""
        return self.frozen_hashes()

    @property
    def fingerprint(self) -> str:
        """One hash over ``hashes_at_load``."""
        return fingerprint(self.hashes_at_load)

    @property
    def all_weights(self) -> str:
        """One hash over the base model at load and all that was put on it, as it is now."""
        return fingerprint(self.hashes_at_load | hashes_of(self.state()))

    def refuse_foreign(self, heads: Mapping[int, RouterHead]) -> None:
        """Refuse bound heads that have read what belongs to another base model.

        Raises:
            ConfigError: One has.
        """
        for part in (one for head in heads.values() for one in head.modules() if isinstance(one, RouterHead)):
            if part.made_for not in (None, self.fingerprint):
                raise ConfigError(
                    f"expected runs of this base model, fingerprint {self.fingerprint}, but got those of "
                    f"{part.made_for} (model.head, {type(part).__name__}). Hint: set model.base to the runs'."
                )

    def prove_frozen(self) -> int:
        """Hash every frozen tensor again, refuse any that is not what it was at load, and return how many there are."""
        after = self.frozen_hashes()
        changed = sorted(name for name, value in after.items() if value != self.hashes_at_load.get(name))
        if changed:
            raise ModelError(
                f"expected the base model to stay as it was but {len(changed)} tensors changed: {changed[:4]}. "
                "Hint: a head must not write to the weight it is bound to."
            )
        return len(after)

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        tokens = kwargs["inputs_embeds"] if tokens is None else tokens
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if mask is not None and mask.dim() == 4:
            return  # who says which token sees which has opened the trace
        # In generation the mask also covers the cached positions; the current ones are the last.
        real_BS = torch.ones(tokens.shape[:2], device=tokens.device) if mask is None else mask[:, -tokens.shape[1] :]
        session, before = self._session, self._session.trace
        real_BS = real_BS if session.real_BS is None else session.real_BS
        if session.answer_BS is None:
            session.trace = RoutingTrace.of_batch(real_BS, session.needs)
        else:
            session.trace = RoutingTrace.of_tokens(real_BS.bool(), session.answer_BS, session.needs)
        session.trace.token_T = tokens.flatten() if tokens.dim() == 2 else None  # else they are embedded already
        # Generation drops a mask without padding; the cache then tells that these tokens go on from others.
        cache = kwargs.get("past_key_values")
        before_these = 0 if cache is None else cache.get_seq_length()
        goes_on = before_these > 0 if mask is None else mask.shape[1] > tokens.shape[1]
        if before is not None and goes_on:
            session.trace.acting = before.acting  # what the prompts have decided stands for what is generated

    def _close(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if self._session.trace is not None:
            self._session.trace.is_open = False


def _extras(needs: Iterable[str]) -> frozenset[str]:
    if unknown := frozenset(needs) - EXTRAS:
        raise ConfigError(f"expected extras of {sorted(EXTRAS)} but got {sorted(unknown)} (needs).")
    return frozenset(needs)


TunedRouters = GatedModel
"""The name it had, for programs that still use it."""
