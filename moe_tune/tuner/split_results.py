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
        kept: What is kept of each answer, by ``Judged``'s names: ``log_probs_BA``, ``letter_mass_B`` or, under
            a cloze protocol, ``log_likelihood_BA``.
        correct: Questions answered correctly.
        loss: Sum of the questions' task losses, in double precision.
        acted: Questions the head acted on, where it chooses; else ``None``.
        joined: Whether what the other processes answered is in.
    """

    evidence: RoutingEvidence
    question_Q: list[Tensor] = field(default_factory=list)
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    correct: int = 0
    loss: float = 0.0
    acted: int | None = None
    joined: bool = False

    @property
    def reads_mass(self) -> bool:
        """Whether it keeps the letters' share of the vocabulary's probability."""
        return True

    @property
    def needs(self) -> frozenset[str]:
        """Costly extras of the routing that the metrics read."""
        return self.evidence.needs

    @property
    def answers(self) -> dict[str, Tensor]:
        """What is kept of each answered question, by name, in the order of ``question_Q``."""
        return {name: torch.cat(parts) for name, parts in self.kept.items()}

    @property
    def log_probs_QA(self) -> Tensor:
        """Log-probabilities of each question's letters or choices, padded with -inf."""
        return torch.cat(self.kept["log_probs_BA"])

    def join(self) -> None:
        """Take in what the other processes answered; every process has to come here."""
        if self.joined:
            return
        self.joined = True
        self.question_Q = [joined_over_ranks(torch.cat(self.question_Q))]
        self.kept = {name: [joined_over_ranks(torch.cat(parts))] for name, parts in self.kept.items()}
        right, loss = summed_over_ranks(torch.tensor([self.correct, self.loss], dtype=torch.float64)).tolist()
        self.correct, self.loss = int(right), loss
        if self.acted is not None:
            self.acted = int(summed_over_ranks(torch.tensor(self.acted)))

    def summary(self) -> dict[str, float]:
        """Return the history's numbers, of all processes: accuracy, mean loss and those of the routing.

        A head that chooses its questions has the share of them that it acted on, ``acting_share``.
        """
        self.join()
        count = sum(len(part) for part in self.question_Q)
        acting = {} if self.acted is None else {"acting_share": self.acted / count}
        return {"accuracy": self.correct / count, "loss": self.loss / count, **self.evidence.summary(), **acting}

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        """Add a batch."""
        correct_B = judged.log_probs_BA.argmax(-1) == batch.gold_B
        self.evidence.update(trace, Outcome(correct_B, batch.subject_B, batch.question_B))
        self.question_Q.append(batch.question_B.cpu())
        for name, value in judged.rows().items():
            self.kept.setdefault(name, []).append(value)
        self.correct += int(correct_B.sum())
        if 0 in trace.acting:
            self.acted = (self.acted or 0) + int(trace.acting[0].sum())
        self.loss += float(judged.loss_B.to(torch.float64).sum())
