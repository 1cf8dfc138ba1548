"""The contract of a routing metric."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from moe_tune.routing import RoutingTrace, Scope


@dataclass(frozen=True, slots=True)
class MetricShape:
    """The sizes a routing metric needs for its states.

    Args:
        layers: Indices of the MoE layers.
        num_experts: Experts per layer, E.
        top_k: Experts per token, K.
        num_subjects: Subjects of the quiz.
        num_questions: Questions of the split, Q.
    """

    layers: tuple[int, ...]
    num_experts: int
    top_k: int
    num_subjects: int
    num_questions: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the questions of a batch went.

    Args:
        correct_B: Whether each question was answered correctly.
        subject_B: Index of each question's subject.
        question_B: Index of each question in its split.
    """

    correct_B: Tensor
    subject_B: Tensor
    question_B: Tensor


class RoutingMetric(Metric, ABC):
    """A statistic of routing traces, summed exactly over batches and ranks.

    Every state is a sum, so that batch size, order and the number of processes cannot change a value.

    Args:
        shape: The sizes of its states.
        scope: Which tokens count.

    Attributes:
        needs: Costly extras of the trace the metric reads: ``hidden``, ``base_logits``; recorded only if declared.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    full_state_update = False
    is_differentiable = False

    def __init__(self, shape: MetricShape, scope: Scope) -> None:
        super().__init__()
        self.shape, self.scope = shape, scope

    @abstractmethod
    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add a batch.

        Args:
            trace: The routing of the batch.
            outcome: How its questions went.
        """

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Return tables by name: (L,) one value per layer, (L, E) one per expert, (L, E, subjects) by subject."""

    @staticmethod
    @abstractmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        """Return the few numbers of the history from what ``compute`` returned."""

    def add_sum(self, name: str, *sizes: int, dtype: torch.dtype = torch.float64) -> None:
        """Add a state that sums over batches and ranks.

        Args:
            name: Attribute name of the state.
            sizes: Its shape.
            dtype: Integers count exactly; float64 keeps sums of many small terms.
        """
        self.add_state(name, default=torch.zeros(sizes, dtype=dtype), dist_reduce_fx="sum")
