"""What an evaluated split has gathered so far."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_tune.base.ranks import joined_over_ranks, summed_over_ranks
from moe_tune.data.batching import Batch
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing import RoutingTrace
from moe_tune.tuner.judged import Judged


@dataclass(slots=True)
class SplitResults:
    """What an evaluated split has gathered so far.

    Args:
        evidence: The routing metrics.
        question_Q: Index of each answered question within the split.
        log_probs_QA: Log-probabilities of its letters, or of its choices, padded with -inf.
        log_likelihood_QA: Log-likelihoods of its choices' texts under a cloze protocol, padded with 0.
        correct: Questions answered correctly.
        loss: Sum of the questions' task losses, in double precision.
        joined: Whether what the other processes answered is in.
    """

    evidence: RoutingEvidence
    question_Q: list[Tensor] = field(default_factory=list)
    log_probs_QA: list[Tensor] = field(default_factory=list)
    log_likelihood_QA: list[Tensor] = field(default_factory=list)
    correct: int = 0
    loss: float = 0.0
    joined: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """Costly extras of the routing that the metrics read."""
        return self.evidence.needs

    def join(self) -> None:
        """Take in what the other processes answered; every process has to come here."""
        if self.joined:
            return
        self.joined = True
        self.question_Q = [joined_over_ranks(torch.cat(self.question_Q))]
        self.log_probs_QA = [joined_over_ranks(torch.cat(self.log_probs_QA))]
        if self.log_likelihood_QA:
            self.log_likelihood_QA = [joined_over_ranks(torch.cat(self.log_likelihood_QA))]
        right, loss = summed_over_ranks(torch.tensor([self.correct, self.loss], dtype=torch.float64)).tolist()
        self.correct, self.loss = int(right), loss

    def summary(self) -> dict[str, float]:
        """Return the history's numbers, of all processes: accuracy, mean loss and those of the routing."""
        self.join()
        count = sum(len(part) for part in self.question_Q)
        return {"accuracy": self.correct / count, "loss": self.loss / count, **self.evidence.summary()}

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        """Add a batch."""
        correct_B = judged.log_probs_BA.argmax(-1) == batch.gold_B
        self.evidence.update(trace, Outcome(correct_B, batch.subject_B, batch.question_B))
        self.question_Q.append(batch.question_B.cpu())
        self.log_probs_QA.append(judged.log_probs_BA.cpu())
        if judged.log_likelihood_BA is not None:
            self.log_likelihood_QA.append(judged.log_likelihood_BA.cpu())
        self.correct += int(correct_B.sum())
        self.loss += float(judged.loss_B.to(torch.float64).sum())
