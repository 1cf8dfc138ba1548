"""Expert accuracy: how the questions went that an expert had a part in."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.metrics.expert_activation import weight_mass
from moe_tune.routing import Part, RouterOutput, RoutingTrace, Scope
from moe_tune.stats.ratios import FEWEST


def questions_by_expert(output: RouterOutput, question_T: Tensor, questions: int) -> Tensor:
    """Return which questions of a batch had at least one token routed to each expert.

    Shape:
        - (B, E), bool; several tokens of one question count once.
    """
    experts = output.logits_TE.shape[-1]
    flat_TK = question_T[:, None] * experts + output.experts_TK
    used_TK = output.mask_T[:, None].expand_as(flat_TK)
    if output.used_TK is not None:
        used_TK = used_TK & output.used_TK
    tokens = torch.zeros(questions * experts, dtype=torch.long, device=flat_TK.device)
    tokens.index_add_(0, flat_TK.reshape(-1), used_TK.reshape(-1).long())
    return (tokens > 0).view(questions, experts)


class ExpertAccuracy(RoutingMetric):
    """Questions and correct answers per layer, expert and subject; an association, confounded by subject.

    ``mass_correct`` is the part of an expert's weight mass that came from tokens of correctly answered questions.
    ``expert_accuracy_spread`` in the history is the largest minus the smallest raw accuracy within a layer over experts
    with at least 30 questions, mean over layers; NaN when no layer has two such experts.

    Args:
        shape: The sizes of its states.
        scope: Which tokens count; the unit is the question.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187
    """

    higher_is_better = None
    axes: ClassVar[Mapping[str, str]] = {
        "questions": "LE",
        "correct": "LE",
        "questions_by_subject": "LES",
        "correct_by_subject": "LES",
        "mass_correct": "LE",
    }
    questions_LES: Tensor
    correct_LES: Tensor
    mass_correct_LE: Tensor

    def __init__(self, shape: MetricShape, scope: Scope | Part) -> None:
        super().__init__(shape, scope)
        self.add_sum("questions_LES", "LES", torch.long)
        self.add_sum("correct_LES", "LES", torch.long)
        self.add_sum("mass_correct_LE", "LE")

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        question_T = trace.question_T[trace.mask(self.scope)]
        correct_T = outcome.correct_B[question_T]
        for output in trace.at(self.scope):
            index = self.shape.layers.index(output.layer)
            hit_BE = questions_by_expert(output, question_T, len(outcome.correct_B)).long()
            self.questions_LES[index].index_add_(1, outcome.subject_B, hit_BE.T)
            self.correct_LES[index].index_add_(1, outcome.subject_B, (hit_BE * outcome.correct_B[:, None]).T)
            self.mass_correct_LE[index] += weight_mass(output, correct_T)

    def compute(self) -> dict[str, Tensor]:
        return {
            "questions": self.questions_LES.sum(-1),
            "correct": self.correct_LES.sum(-1),
            "questions_by_subject": self.questions_LES,
            "correct_by_subject": self.correct_LES,
            "mass_correct": self.mass_correct_LE,
        }

    @staticmethod
    def summary(tables: dict[str, Tensor]) -> dict[str, float]:
        spreads = []
        for questions_E, correct_E in zip(tables["questions"], tables["correct"], strict=True):
            accuracy = (correct_E / questions_E)[questions_E >= FEWEST]
            if len(accuracy) >= 2:
                spreads.append(float(accuracy.max() - accuracy.min()))
        return {"expert_accuracy_spread": sum(spreads) / len(spreads) if spreads else math.nan}
