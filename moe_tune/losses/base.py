"""The contract of an auxiliary loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.errors import ConfigError
from moe_tune.routing import RouterOutput, RoutingTrace, Scope, ScoringRule
from moe_tune.schedule import ScheduleKind, scheduled


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
    """

    rule: ScoringRule
    layers: tuple[int, ...]
    scope: Scope
    progress: float
    letter_log_probs_BA: Tensor
    gold_B: Tensor


class AuxLoss(ABC):
    """A loss beside the task loss; added as ``weight * schedule * compute``, and logged with and without its weight.

    Args:
        weight: Factor on the loss; its sign is the user's business.
        schedule: How the weight changes over training: ``constant``, ``linear`` or ``cosine`` to ``weight_end``.
        weight_end: Factor at the end of training; unused by ``constant``.
        warmup: Share of training, 0 to 1, over which the weight rises from 0.
        scope: ``answer`` or ``all``; ``null`` follows the heads.
        layers: Layer indices the loss looks at; ``null`` takes those with a head.

    Attributes:
        needs: Costly extras of the trace the loss reads: ``hidden``, ``base_logits``; recorded only if declared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        weight: float = 1.0,
        schedule: ScheduleKind = "constant",
        weight_end: float = 0.0,
        warmup: float = 0.0,
        scope: Scope | None = None,
        layers: list[int] | None = None,
    ) -> None:
        self.weight, self.schedule, self.weight_end, self.warmup = weight, schedule, weight_end, warmup
        self.scope, self.layers = scope, layers

    @abstractmethod
    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        """Return the unscaled loss, a scalar.

        Args:
            trace: The routing of the forward pass.
            context: What else it may read.
        """

    def current_weight(self, progress: float) -> float:
        """Return the factor at a share of training."""
        return scheduled(self.schedule, self.weight, self.weight_end, progress, self.warmup)

    def outputs(self, trace: RoutingTrace, context: LossContext) -> list[RouterOutput]:
        """Return the outputs of this loss's layers, restricted to the tokens of its scope.

        Raises:
            ConfigError: The loss names a layer without a router, or no layer.
        """
        wanted = context.layers if self.layers is None else tuple(self.layers)
        if not wanted or set(wanted) - trace.outputs.keys():
            raise ConfigError(
                f"expected MoE layers of {sorted(trace.outputs)} but got {list(wanted)} "
                f"({type(self).__name__}.layers). Hint: null takes the layers with a head."
            )
        return [output for output in trace.at(self.scope or context.scope) if output.layer in wanted]

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
