"""A stock gate's own code, run on any logits and for any set of experts."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from moe_tune.base.errors import ModelError
from moe_tune.models.packed_weight import fused_weights
from moe_tune.routing.functions import stable_top_k

TOP_K = (torch.topk, torch.Tensor.topk)
Choose = Callable[[Tensor], Tensor]
"""Turns the scores a gate chooses by, (T, E), into the experts of each token."""


class GateReplay:
    """Asks a stock gate what it decides about given logits, and how it weighs a given set; by its own code.

    A gate computes logits by one projection, chooses by a top-k over all experts, then weighs. Here the projection is
    answered by other logits, and the last such top-k by another set. So the family's own groups, correction biases,
    clamps, factors and dtypes hold, and gradients reach the logits.

    Args:
        gate: The stock gate.
        owner: The module it is part of, which may pass tensors of its own to it.
        experts: The experts beside it: one module of 3-D weights, in the dtype of the model.
        layer: Its decoder layer, for messages.

    Raises:
        ModelError: The gate has no projection, or reads what is neither hidden states nor a tensor of its owner.
    """

    def __init__(self, gate: nn.Module, owner: nn.Module, experts: nn.Module, layer: int) -> None:
        self.gate, self.owner, self.layer = gate, owner, layer
        fused = fused_weights(experts)[0]
        self.num_experts, self.dtype = len(fused), fused.dtype
        self.weight_name = self._weight_name()
        self.width = int(self.weight(gate).shape[1])
        self.beside, unknown = names_beside(gate, owner)
        """Arguments of the gate beside the hidden states; they are tensors of its owner."""
        if unknown:
            raise ModelError(
                f"expected a router that decides by hidden states but {type(gate).__name__} also reads {unknown} "
                f"(layer {layer}): what a head does to its logits would not be what it chooses by."
            )
        with torch.no_grad():
            seen = self._first_call()
        self.top_k = int(seen.experts_TK.shape[-1])
        self.weights_dtype = seen.weights_dtype
        """Dtype of the weights it gives where hidden states are in the model's."""
        self.returns_logits = seen.returns_logits
        """Whether the first thing it returns are the logits; else they are what its projection returns."""
        self.choices = len(seen.asked)
        """How often it calls a top-k; more than once where groups are chosen first."""
        sizes = [one.shape[-1] for one in seen.asked]
        self.selection = max((at for at, size in enumerate(sizes) if size == self.num_experts), default=None)
        """Which of these calls chooses the experts; ``None`` where it chooses in another way."""
        self.groups = _groups(seen.asked[: self.selection or 0], self.num_experts)
        """How it chooses groups of experts first, where it does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "GateReplay":
        return self  # a copied head asks the same gate

    def weight(self, gate: nn.Module) -> Tensor:
        """Return the weight of the projection, (E, D), of the stock gate or of the one in its place."""
        weight: Tensor = self._projection(gate).weight  # type: ignore[assignment]  # no parameter under an adapter
        return weight

    def bias(self, gate: nn.Module) -> Tensor | None:
        """Return the constants of the projection, (E,); ``None`` where it has none."""
        return getattr(self._projection(gate), "bias", None)

    def choice_bias(self) -> Tensor | None:
        """Return the one tensor of E numbers that is called a bias and is not the projection's, or ``None``.

        Families that correct their choice, and not their weights, have it in the gate or beside it.
        """
        own = [*self.gate.named_parameters(), *self.gate.named_buffers()]
        beside = zip(self.beside, self.tensors_beside(), strict=True)
        found = {
            id(one): one
            for name, one in [*own, *beside]
            if one is not None
            and "bias" in name
            and one.numel() == self.num_experts
            and one is not self.bias(self.gate)
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def tensors_beside(self) -> list[Tensor | None]:
        """Return what the owner passes beside the hidden states, as it is now."""
        return [getattr(self.owner, name) for name in self.beside]

    def drawn_hidden(self, tokens: int) -> Tensor:
        """Return random hidden states in the dtype of the model, (T, D), the same for the same layer."""
        draw = torch.Generator().manual_seed(self.layer)
        # Lightning loads models under the GPU's default device, where a CPU generator is refused.
        hidden_TD = torch.randn(tokens, self.width, generator=draw, device="cpu")
        return hidden_TD.to(self.weight(self.gate).device, self.dtype)

    def stock(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the stock gate makes of hidden states: logits or what it returns for them, weights, experts."""
        first, weights_TK, experts_TK = self.gate.forward(self._shaped(hidden_TD), *self.tensors_beside())
        return first, weights_TK.reshape(len(hidden_TD), -1), experts_TK.reshape(len(hidden_TD), -1)

    @property
    def plain(self) -> bool:
        """Whether there is no more to the gate than a projection and one top-k."""
        owner = self.weight_name.rpartition(".")[0]
        known = {f"{owner}.{name}".strip(".") for name in ("weight", "bias")}
        tensors = {name for name, _ in [*self.gate.named_parameters(), *self.gate.named_buffers()]}
        return tensors <= known and not self.beside and self.choices == 1 and self.selection == 0

    def project(self, gate: nn.Module, forward: Callable[..., Any], hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the router's logits (T, E) and what its projection reads (T, D), by its own code.

        Args:
            gate: The stock gate or the one in its place.
            forward: The stock class's forward, bound to it.
            hidden_TD: The router's input; weights of another dtype are converted to its.

        Raises:
            ModelError: An adapter is on a projection whose result the gate does not return.
        """
        with _Answers(self) as answers:
            out = forward(self._shaped(hidden_TD), *self.tensors_beside())
        assert answers.read is not None
        assert answers.projected is not None
        logits_TE = out[0] if self.returns_logits else answers.projected
        if not self.returns_logits and self._projection(gate) not in (gate, self._projection(self.gate)):
            raise ModelError(
                f"expected no adapter on the router but got one (layer {self.layer}, {type(self.gate).__name__} "
                "does not return its logits). Hint: leave the router out of model.peft's target_modules."
            )
        return logits_TE.reshape(-1, self.num_experts), answers.read.reshape(-1, self.width)

    def decide(
        self, logits_TE: Tensor, choose: Choose | None = None, barred_E: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return weights and experts, (T, K) each, that the gate gives to logits.

        Args:
            logits_TE: Router logits.
            choose: Chooses by the gate's own scores; by default the gate does.
            barred_E: Experts that no top-k may take, nor count for their group; their logits are the lowest already.

        Raises:
            ModelError: The gate does not choose by a top-k over all experts, so nobody else can.
        """
        if choose is not None and self.selection is None:
            raise ModelError(
                f"expected a router that chooses by a top-k but got {type(self.gate).__name__} (layer {self.layer}). "
                "Hint: heads that change its logits alone can be used."
            )
        nothing_TD = logits_TE.new_zeros(1, self.width).expand(len(logits_TE), -1)
        with _Answers(self, logits_TE, choose, barred_E):
            out = self.gate.forward(self._shaped(nothing_TD), *self.tensors_beside())
        return out[1].reshape(len(logits_TE), -1), out[2].reshape(len(logits_TE), -1)

    def choose(self, logits_TE: Tensor, slots: int, *, stable: bool, barred_E: Tensor | None = None) -> Tensor:
        """Return the experts that the gate chooses for logits, ``slots`` of each token.

        They are best first, but for its own K unless ``stable``: then they are in the gate's own order, whatever it is.

        Args:
            logits_TE: Router logits.
            slots: Experts per token wanted.
            stable: Ties fall towards the lower index; else as ``torch.topk`` lets them fall.
            barred_E: Experts that may not be chosen.
        """
        if slots == self.top_k and (self.selection is None or not stable):
            return self.decide(logits_TE, None, barred_E)[1]
        if stable:
            return self.decide(logits_TE, lambda scores_TE: stable_top_k(scores_TE, slots), barred_E)[1]
        return self.decide(logits_TE, lambda scores_TE: torch.topk(scores_TE, slots, dim=-1).indices, barred_E)[1]

    def weigh(self, logits_TE: Tensor, experts_TK: Tensor, barred_E: Tensor | None = None) -> Tensor:
        """Return the weights that the gate gives to a set of experts for logits, (T, K)."""
        if self.selection is None:
            weights_TK, own_TK = self.decide(logits_TE, None, barred_E)
            if not torch.equal(own_TK, experts_TK):
                raise ModelError(
                    f"expected the experts the router itself has chosen but got others (layer {self.layer}, "
                    f"{type(self.gate).__name__}). Hint: heads that change its logits alone can be used."
                )
            return weights_TK
        return self.decide(logits_TE, lambda _: experts_TK, barred_E)[0]

    def _shaped(self, hidden_TD: Tensor) -> Tensor:
        return hidden_TD if self.dims == 2 else hidden_TD[None]

    def _projection(self, gate: nn.Module) -> nn.Module:
        return gate.get_submodule(self.weight_name.rpartition(".")[0])

    def _weight_name(self) -> str:
        """Return the name of the projection's weight: the widest of E rows."""
        found = {
            name: one.shape[1]
            for name, one in self.gate.named_parameters()
            if one.dim() == 2 and one.shape[0] == self.num_experts and name.endswith("weight")
        }
        if not found:
            shapes = {name: tuple(one.shape) for name, one in self.gate.named_parameters()}
            raise ModelError(
                f"expected a router with a weight of {self.num_experts} rows, one per expert, but got {shapes} "
                f"(layer {self.layer}, {type(self.gate).__name__})."
            )
        return max(found, key=lambda name: found[name])

    def _first_call(self) -> "_Seen":
        """Call the gate on a few random hidden states, in the number of dimensions that it takes."""
        hidden_TD = self.drawn_hidden(4)
        for self.dims in (2, 3):
            try:
                with _Answers(self) as answers:
                    out = self.gate.forward(self._shaped(hidden_TD), *self.tensors_beside())
                logits_TE, weights_TK, experts_TK = (one.reshape(len(hidden_TD), -1) for one in out)
                break
            except (IndexError, RuntimeError, ValueError, TypeError) as fault:
                problem = fault
        else:
            raise ModelError(
                f"expected a router that returns logits, weights and indices but got: {problem} (layer {self.layer}, "
                f"{type(self.gate).__name__})."
            ) from problem
        if answers.projected is None:
            raise ModelError(
                f"expected a router whose logits are one projection by {self.weight_name} but none was computed "
                f"(layer {self.layer}, {type(self.gate).__name__})."
            )
        projected_TE = answers.projected.reshape(len(hidden_TD), -1)
        same = logits_TE.shape == projected_TE.shape and (hidden_TD.is_meta or torch.equal(logits_TE, projected_TE))
        return _Seen(experts_TK, weights_TK.dtype, same, answers.asked)


def names_beside(gate: nn.Module, owner: nn.Module) -> tuple[list[str], list[str]]:
    """Return the arguments of a gate beside hidden states: tensors of its owner, and what it needs from elsewhere."""
    own: list[str] = []
    for name, one in list(inspect.signature(gate.forward).parameters.items())[1:]:
        if isinstance(getattr(owner, name, None), Tensor):
            own.append(name)
        elif one.kind is one.POSITIONAL_OR_KEYWORD and one.default is one.empty:
            return own, [name]
        else:
            break
    return own, []


@dataclass(frozen=True)
class _Seen:
    """What the first call of a gate has shown."""

    experts_TK: Tensor
    weights_dtype: torch.dtype
    returns_logits: bool
    asked: list["_Asked"]


@dataclass(frozen=True)
class _Asked:
    """A call of a top-k."""

    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Groups:
    """How a gate chooses groups of experts before experts.

    Args:
        number: Groups of the layer.
        open: Groups that a token may choose from.
        least: Experts of a group whose scores are added up to the group's.
    """

    number: int
    open: int
    least: int

    def left_by(self, barred_E: Tensor) -> int:
        """Return how many experts a token can choose from at least where some are barred.

        Example:
            >>> Groups(2, 1, 2).left_by(torch.tensor([False] * 4 + [False, False, False, True]))
            3
        """
        left = sorted((~barred_E).view(self.number, -1).sum(-1).tolist())
        # A group whose score cannot be had is never chosen.
        fit = [count for count in left if count >= self.least]
        return sum(fit[: self.open]) if len(fit) >= self.open else 0


def _groups(asked: list[_Asked], experts: int) -> Groups | None:
    """Return the choice of groups among the top-k calls before that of experts."""
    if not asked:
        return None
    last = asked[-1]
    inside = [one.count for one in asked[:-1] if one.shape[-2:] == (last.shape[-1], experts // last.shape[-1])]
    return Groups(last.shape[-1], last.count, inside[-1] if inside else 1)


class _Answers(TorchFunctionMode):
    """Listens to a gate's projection and its top-k calls, and answers them where there are answers."""

    def __init__(
        self,
        replay: GateReplay,
        logits_TE: Tensor | None = None,
        choose: Choose | None = None,
        barred_E: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.replay, self.logits_TE, self.choose, self.barred_E = replay, logits_TE, choose, barred_E
        self.read: Tensor | None = None
        self.projected: Tensor | None = None
        self.asked: list[_Asked] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is functional.linear:
            return self._linear(*args, **kwargs)
        if function in TOP_K:
            return self._top_k(function, *args, **kwargs)
        return function(*args, **kwargs)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        mine = weight.shape == (self.replay.num_experts, self.replay.width)
        if mine and self.logits_TE is not None:
            return self.logits_TE.reshape(*input.shape[:-1], -1)
        # Under autocast the operation itself converts; else a float32 router reads weights of half precision.
        if weight.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        out = functional.linear(input, weight, bias)
        if mine:
            self.read, self.projected = input, out
        return out

    def _top_k(self, function: Any, scores: Tensor, k: int, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(_Asked(tuple(scores.shape), k))
        scores = self._barring(scores)
        if self.choose is None or len(self.asked) - 1 != self.replay.selection:
            return function(scores, k, *args, **kwargs)
        chosen = self.choose(scores.reshape(-1, scores.shape[-1])).reshape(*scores.shape[:-1], -1)
        return torch.return_types.topk((scores.gather(-1, chosen), chosen))

    def _barring(self, scores: Tensor) -> Tensor:
        """Return scores of all experts, perhaps by group, with those of barred ones lowest; others as they are."""
        if self.barred_E is None:
            return scores
        shape = scores.shape[-2:] if scores.dim() > 2 and scores.shape[-1] != len(self.barred_E) else scores.shape[-1:]
        if shape.numel() != len(self.barred_E):
            return scores
        return scores.masked_fill(self.barred_E.view(shape), -torch.inf)
