"""The contract of an auxiliary loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.base.schedule import ScheduleKind, scheduled
from moe_tune.routing import (
    LayerTable,
    NeighbourRoutes,
    OracleRoutes,
    RouterOutput,
    RoutingTrace,
    SampledRoutes,
    Scope,
    ScoringRule,
)

CONTEXT_EXTRAS = frozenset({"teacher", "table", "oracle", "neighbours", "routes"})
"""What a loss may declare as ``needs`` beside the extras of a trace."""


class Layer(Protocol):
    """What a loss may see of a layer beside its trace."""

    @property
    def pretrained_ED(self) -> Tensor:
        """The pretrained router weight, frozen."""

    def router_weight(self) -> Tensor | None:
        """Return the weight the layer routes with, with its gradient; ``None`` if it is no single weight."""

    def outputs(self, hidden_TD: Tensor, experts_TK: Tensor) -> Tensor:
        """Return what each chosen expert makes of a token, unweighted, (T, K, D)."""


@dataclass(frozen=True, slots=True)
class LossContext:
    """What a loss may read beside the trace.

    Args:
        rule: The family's scoring rule.
        layers: The layers whose routers carry a head.
        scope: Where the heads act; a loss without a scope of its own uses it.
        progress: Share of training done, 0 to 1.
        letter_log_probs_BA: Log-probabilities of the answer letters.
        gold_B: Index of the right letter.
        logits_BV: Logits over the vocabulary at the answer position.
        view: What is to be seen of each layer beside its trace, by index.
        teacher_logits_BV: The pretrained router's ``logits_BV``, without gradient, if a loss needs ``teacher``.
        tables: What is known of the training split by layer, if a loss needs ``table``.
        oracle: The routing sought for each question of the batch, if a loss needs ``oracle``.
        neighbours: The routing of each question's nearest, if a loss needs ``neighbours``.
        routes: Routes sampled for each question of the batch, if a loss needs ``routes``.
    """

    rule: ScoringRule
    layers: tuple[int, ...]
    scope: Scope
    progress: float
    letter_log_probs_BA: Tensor
    gold_B: Tensor
    logits_BV: Tensor
    view: Mapping[int, Layer]
    teacher_logits_BV: Tensor | None = None
    tables: Mapping[int, LayerTable] | None = None
    oracle: OracleRoutes | None = None
    neighbours: NeighbourRoutes | None = None
    routes: SampledRoutes | None = None


@dataclass(frozen=True, slots=True)
class OracleSearch:
    """How the routing that answers a question is sought: Adam on offsets of the logits, from 0.

    Args:
        steps: Steps.
        rate: Learning rate, in logits.
    """

    steps: int = 10
    rate: float = 0.01


@dataclass(frozen=True, slots=True)
class RouteSampling:
    """How routes of the last layer with a head are sampled.

    Args:
        routes: Routes per question.
        seed: Of the noise.
    """

    routes: int = 32
    seed: int = 0


class AuxLoss(ABC):
    """A loss beside the task loss; added as ``weight * schedule * compute``, and logged with and without its weight.

    A loss with arguments of its own takes ``weight`` first and hands the rest on (``**shared``), so that they are said
    and documented here alone.

    Args:
        weight: Factor on the loss; its sign is the user's business.
        schedule: How the weight changes over training: ``constant``, ``linear`` or ``cosine`` to ``weight_end``.
        weight_end: Factor at the end of training; unused by ``constant``.
        warmup: Share of training, 0 to 1, over which the weight rises from 0.
        scope: Tokens that count: ``answer`` or ``all``; ``null`` follows the heads.
        layers: Layer indices the loss looks at; ``null`` takes those with a head.

    Raises:
        ConfigError: A weight is not finite, the warm-up is no share, or layers are none or repeated.

    Attributes:
        needs: Costly extras the loss reads, made only if declared: ``hidden``, ``base_logits`` and ``own_probs`` of the
            trace, ``teacher``, ``table``, ``oracle``, ``neighbours`` and ``routes`` of the context.
        search: How the oracle's routing is sought, for a loss that needs ``oracle``.
        sampling: How routes are sampled, for a loss that needs ``routes``.
        reads: What its value depends on: the ``routing`` of its layers and scope, the router ``weights`` of its layers,
            or the ``answer`` alone.
        scopes: Scopes at which it means anything; ``outputs`` refuses the others.
        reads_probabilities: Whether it reads the probabilities of the trace.
        last_layer: Whether it looks at the last of its layers alone.
        token_mean: Whether it is a mean over tokens, so that the batches of an optimiser step count by their tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    reads: ClassVar[Literal["routing", "weights", "answer"]] = "routing"
    scopes: ClassVar[tuple[Scope, ...]] = ("answer", "all")
    reads_probabilities: ClassVar[bool] = True
    last_layer: ClassVar[bool] = False
    token_mean: ClassVar[bool] = False
    search: OracleSearch | None = None
    sampling: RouteSampling | None = None

    def __init__(
        self,
        weight: float = 1.0,
        schedule: ScheduleKind = "constant",
        weight_end: float = 0.0,
        warmup: float = 0.0,
        scope: Scope | None = None,
        layers: list[int] | None = None,
    ) -> None:
        name = type(self).__name__
        for key, value in (("weight", weight), ("weight_end", weight_end)):
            require(math.isfinite(value), "a finite factor", value, f"{name}.{key}", "0.01 is one to start from.")
        require(0 <= warmup <= 1, "a share of 0 to 1", warmup, f"{name}.warmup", "0.1 is a tenth of training.")
        distinct = layers is None or (bool(layers) and len({*layers}) == len(layers))
        hint = "null takes the layers with a head."
        require(distinct, "one or more different layers", layers, f"{name}.layers", hint)
        self.weight, self.schedule, self.weight_end, self.warmup = weight, schedule, weight_end, warmup
        self.scope, self.layers = scope, layers
        self.state: dict[str, Tensor] = {}
        """What the loss carries from step to step; saved in checkpoints."""

    @abstractmethod
    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        """Return the unscaled loss, a scalar.

        Args:
            trace: The routing of the forward pass.
            context: What else it may read.
        """

    def after_step(self) -> None:  # noqa: B027 (most losses carry nothing)
        """Move what is carried from step to step, once after every optimiser step."""

    def current_weight(self, progress: float) -> float:
        """Return the factor at a share of training."""
        return scheduled(self.schedule, self.weight, self.weight_end, progress, self.warmup)

    def counts_tokens(self, scope: Scope) -> bool:
        """Return whether batches count by their tokens rather than by their questions, given where the heads act."""
        return self.token_mean and (self.scope or scope) == "all"

    def chosen_layers(self, trace: RoutingTrace, context: LossContext) -> tuple[int, ...]:
        """Return the layers the loss looks at.

        Raises:
            ConfigError: The loss names a layer without a router, or no layer.
        """
        wanted = context.layers if self.layers is None else tuple(self.layers)
        known, where = sorted(trace.outputs), f"{type(self).__name__}.layers"
        found = bool(wanted) and set(wanted) <= {*known}
        require(found, f"MoE layers of {known}", list(wanted), where, "null takes the layers with a head.")
        return (max(wanted),) if self.last_layer else wanted

    def refuse_unknown(self, wanted: Collection[int], known: Collection[int]) -> None:
        """Refuse layers of which nothing was made beforehand, where that was made of layers with a head alone.

        Raises:
            ConfigError: There is one.
        """
        where, hint = f"{type(self).__name__}.layers", "null takes the layers with a head."
        require({*wanted} <= {*known}, f"layers with a head, {sorted(known)},", list(wanted), where, hint)

    def outputs(self, trace: RoutingTrace, context: LossContext) -> list[RouterOutput]:
        """Return the outputs of this loss's layers, restricted to the tokens of its scope.

        Raises:
            ConfigError: The loss names a layer without a router or no layer, or means nothing at this scope.
        """
        wanted, scope = self.chosen_layers(trace, context), self.scope or context.scope
        where, hint = f"{type(self).__name__}.scope", "set the loss's scope, or that of the heads."
        require(scope in self.scopes, f"scope {' or '.join(self.scopes)}", scope, where, hint)
        return [output for output in trace.at(scope) if output.layer in wanted]

    def mean_over_layers(
        self, trace: RoutingTrace, context: LossContext, value: Callable[[RouterOutput], Tensor]
    ) -> Tensor:
        """Return the plain mean over layers of a per-layer value; 0 where no token counts.

        Args:
            trace: The routing of the forward pass.
            context: What else the loss reads.
            value: The loss of one layer whose tokens all count.
        """
        values = [
            value(output) if len(output.mask_T) else output.logits_TE.sum() for output in self.outputs(trace, context)
        ]
        return torch.stack(values).mean()
