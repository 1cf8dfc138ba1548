"""Expert accuracy: how the questions went that an expert had a part in."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.metrics.expert_activation import weight_mass
from moe_tune.routing import RouterOutput, RoutingTrace
from moe_tune.stats.ratios import FEWEST


def questions_by_expert(output: RouterOutput, question_T: Tensor, questions: int) -> Tensor:
    """Return which questions of a batch had at least one token routed to each expert.

    Shape:
        - (B, E), bool; several tokens of one question count once.
    """
    experts = output.logits_TE.shape[-1]
    flat_TK = question_T[:, None] * experts + output.experts_TK
    tokens = torch.zeros(questions * experts, dtype=torch.long, device=flat_TK.device)
    tokens.index_add_(0, flat_TK.reshape(-1), output.counted_TK.reshape(-1).long())
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

    axes: ClassVar[Mapping[str, str]] = {
        "questions": "LE",
        "correct": "LE",
        "questions_by_subject": "LES",
        "correct_by_subject": "LES",
        "mass_correct": "LE",
    }
    questions_LES: Count
    correct_LES: Count
    mass_correct_LE: Sum

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        question_T = trace.question_T[trace.mask(self.scope)]
        correct_T = outcome.correct_B[question_T]
        for index, output in self.layers(trace):
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
