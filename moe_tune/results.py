"""What an evaluated split has gathered so far."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_tune.metrics.base import Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing import RoutingTrace


@dataclass(slots=True)
class SplitResults:
    """What an evaluated split has gathered so far.

    Args:
        evidence: The routing metrics.
        question_Q: Index of each answered question within the split.
        log_probs_QA: Log-probabilities of its letters, padded with -inf.
        correct: Questions answered correctly.
        loss: Sum of the questions' task losses, in double precision.
    """

    evidence: RoutingEvidence
    question_Q: list[Tensor] = field(default_factory=list)
    log_probs_QA: list[Tensor] = field(default_factory=list)
    correct: int = 0
    loss: float = 0.0

    def summary(self) -> dict[str, float]:
        """Return the history's numbers: accuracy, mean loss and those of the routing."""
        count = sum(len(part) for part in self.question_Q)
        return {"accuracy": self.correct / count, "loss": self.loss / count, **self.evidence.summary()}

    def add(
        self, trace: RoutingTrace, outcome: Outcome, question_B: Tensor, log_probs_BA: Tensor, loss_B: Tensor
    ) -> None:
        """Add a batch.

        Args:
            trace: Its routing.
            outcome: How its questions went.
            question_B: Index of each question within the split.
            log_probs_BA: Log-probabilities of its letters.
            loss_B: Task loss of each question.
        """
        self.evidence.update(trace, outcome)
        self.question_Q.append(question_B.cpu())
        self.log_probs_QA.append(log_probs_BA.cpu())
        self.correct += int(outcome.correct_B.sum())
        self.loss += float(loss_B.to(torch.float64).sum())
