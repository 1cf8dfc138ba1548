"""Question routing: what statistics over questions are computed from, question by question."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Byte, Count, Outcome, RoutingMetric, Sum
from moe_tune.metrics.expert_accuracy import questions_by_expert
from moe_tune.metrics.gate_entropy import topk_entropy
from moe_tune.routing import RoutingTrace


class QuestionRouting(RoutingMetric):
    """Per question: which experts it had at least one token routed to, its mean entropy, its subject, how it went.

    A question has a place of its own in every state, filled by the one process that sees it, so that sums over
    processes are exact. ``seen_Q`` is 0 for questions without a token in the scope, and all else is 0 for them.
    ``entropy_question_QL`` is the mean over the ``tokens_question_QL`` tokens that give an expert any weight, NaN for
    questions whose tokens give none.

    Args:
        shape: The sizes of its states; hits take a byte per question, layer and expert.
        scope: Which tokens count.

    Reference:
        This project's.
    """

    axes: ClassVar[Mapping[str, str]] = {
        "hit_QLE": "QLE",
        "entropy_question_QL": "QL",
        "tokens_question_QL": "QL",
        "correct_Q": "Q",
        "subject_Q": "Q",
        "seen_Q": "Q",
    }
    hit_QLE: Byte
    entropy_QL: Sum
    tokens_QL: Count
    correct_Q: Byte
    subject_Q: Count
    seen_Q: Byte

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        question_T, questions = trace.question_T[trace.mask(self.scope)], len(outcome.question_B)
        seen_B = torch.bincount(question_T, minlength=questions) > 0
        self.seen_Q[outcome.question_B] = seen_B.to(torch.uint8)
        self.correct_Q[outcome.question_B] = (outcome.correct_B & seen_B).to(torch.uint8)
        self.subject_Q[outcome.question_B] = outcome.subject_B * seen_B
        for index, output in self.layers(trace):
            hit_BE = questions_by_expert(output, question_T, questions)
            self.hit_QLE[outcome.question_B, index] = hit_BE.to(torch.uint8)
            entropy_T, _, held_T = topk_entropy(output)
            total_B = torch.zeros(questions, dtype=torch.float64, device=entropy_T.device)
            self.entropy_QL[outcome.question_B, index] = total_B.index_add_(0, question_T, entropy_T)
            self.tokens_QL[outcome.question_B, index] = torch.bincount(question_T[held_T], minlength=questions)

    def compute(self) -> dict[str, Tensor]:
        return {
            "hit_QLE": self.hit_QLE.to(torch.uint8),  # a sum over processes has widened it
            "entropy_question_QL": torch.where(self.seen_Q[:, None] > 0, self.entropy_QL / self.tokens_QL, 0.0),
            "tokens_question_QL": self.tokens_QL,
            "correct_Q": self.correct_Q.to(torch.uint8),
            "subject_Q": self.subject_Q,
            "seen_Q": self.seen_Q.to(torch.uint8),
        }
