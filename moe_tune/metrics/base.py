"""The contract of a routing metric."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from moe_tune.routing import Part, RouterOutput, RoutingTrace, Scope

Sum = Annotated[Tensor, torch.float64]
"""A state that sums floats; 64 bits keep many small terms. The letters at the end of its name are its axes."""
Count = Annotated[Tensor, torch.long]
"""A state that counts exactly."""
Byte = Annotated[Tensor, torch.uint8]
"""A state of many places, each filled once with a small number."""


@dataclass(frozen=True, slots=True)
class MetricShape:
    """The sizes a routing metric needs for its states.

    Args:
        layers: Indices of the MoE layers.
        num_experts: Experts per layer, E.
        top_k: Experts per token, K.
        num_subjects: Subjects of the quiz.
        num_questions: Questions of the split, Q.

    Example:
        >>> MetricShape(layers=(4, 5), num_experts=64, top_k=8, num_subjects=57, num_questions=100).sizes("LEE")
        (2, 64, 64)
    """

    layers: tuple[int, ...]
    num_experts: int
    top_k: int
    num_subjects: int
    num_questions: int

    def sizes(self, axes: str) -> tuple[int, ...]:
        """Return the shape of a table.

        Args:
            axes: A letter per axis: ``L`` layers, ``E`` experts, ``K`` slots, ``S`` subjects, ``Q`` questions.
        """
        known = (len(self.layers), self.num_experts, self.top_k, self.num_subjects, self.num_questions)
        return tuple(known["LEKSQ".index(axis)] for axis in axes)


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
    """A statistic of routing traces, summed over batches and ranks.

    Every state is a sum, so that batch size, order and the number of processes leave counts exactly as they are, and
    what is made of sums of floats to rounding. States are declared by annotation: ``tokens_L: Count``, ``mass_L: Sum``.

    Args:
        shape: The sizes of its states.
        scope: Which tokens count.

    Attributes:
        axes: The tables of ``compute`` and the axes of each, as ``MetricShape.sizes`` reads them.
        needs: Costly extras of the trace the metric reads: ``hidden``, ``base_logits``; recorded only if declared.
    """

    axes: ClassVar[Mapping[str, str]]
    needs: ClassVar[frozenset[str]] = frozenset()
    higher_is_better = None
    full_state_update = False
    is_differentiable = False

    def __init__(self, shape: MetricShape, scope: Scope | Part) -> None:
        super().__init__()
        self.shape, self.scope = shape, scope
        declared = {name: kind for one in type(self).__mro__ for name, kind in inspect.get_annotations(one).items()}
        for name, kind in declared.items():
            if kind in (Sum, Count, Byte):
                self.add_sum(name, name.rpartition("_")[2], kind.__metadata__[0])

    @abstractmethod
    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        """Add a batch.

        Args:
            trace: The routing of the batch.
            outcome: How its questions went.
        """

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Return the tables that ``axes`` names."""

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        """Return the few numbers of the history, by default none, from what ``compute`` returned.

        Args:
            tables: The metric's tables.
        """
        return {}

    def add_sum(self, name: str, axes: str, dtype: torch.dtype = torch.float64) -> None:
        """Add a state that sums over batches and ranks.

        Args:
            name: Attribute name of the state.
            axes: A letter per axis, as ``MetricShape.sizes`` reads them.
            dtype: Integers count exactly; float64 keeps sums of many small terms.
        """
        self.add_state(name, default=torch.zeros(self.shape.sizes(axes), dtype=dtype), dist_reduce_fx="sum")

    def layers(self, trace: RoutingTrace) -> Iterator[tuple[int, RouterOutput]]:
        """Yield the place of each layer in the tables and its routing, restricted to the tokens that count."""
        for output in trace.at(self.scope):
            yield self.shape.layers.index(output.layer), output

    def per_token(self, total: Tensor, tokens_L: Tensor) -> Tensor:
        """Return sums divided by the tokens of each layer; NaN where a layer has none.

        Args:
            total: Sums, (L, ...).
            tokens_L: Tokens they are over.
        """
        return total / tokens_L.view(-1, *[1] * (total.dim() - 1))
