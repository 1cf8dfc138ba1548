"""What calibrated heads and losses read of the training split: how the routers chose, and how it went."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.routing import LayerTable, RouterOutput

SAMPLE = 1024
"""Questions at most of which a table keeps the hidden state and the logits themselves."""


@dataclass(frozen=True, slots=True)
class TrainTable:
    """Counts from one pass over training questions, never over validation or test.

    The pretrained router decides while it is made; only a table for heads that refresh is made with them in place.
    The quiz removes test questions from the training split as it reads it (``data.splits.Splits``), and carves
    validation by content; in a source with both splits of its own they may overlap, which an evaluation refuses.

    Args:
        split: The split the questions came from; only ``train`` is accepted.
        questions: Number of questions.
        questions_hash: First 16 hex digits of sha256 over their sorted ids.
        layers: One table per MoE layer that runs.
        content_hashes: What the questions are, without their subject.

    Raises:
        ConfigError: The table was made from another split.
    """

    split: str
    questions: int
    questions_hash: str
    layers: dict[int, LayerTable]
    content_hashes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        hint = "accuracy tables may only see training questions."
        require(self.split == "train", "calibration on the train split", self.split, "head calibration", hint)


class HiddenSample:
    """Collects the router's input and logits, and who is right, for a sample of a split's questions.

    It is drawn at random, and always the same. Evenly spaced questions would all be of one subject where subjects take
    turns.

    Args:
        questions: Questions of the split.
    """

    def __init__(self, questions: int) -> None:
        drawn = torch.randperm(questions, generator=torch.Generator().manual_seed(0))[:SAMPLE]
        self.sampled_Q = torch.zeros(questions, dtype=torch.bool).index_fill_(0, drawn, True)
        self.question_Q: list[Tensor] = []
        self.correct_Q: list[Tensor] = []
        self.rows: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def add(self, question_B: Tensor, correct_B: Tensor, outputs: list[RouterOutput]) -> None:
        """Keep the questions of a batch that belong to the sample."""
        keep_B = self.sampled_Q.to(question_B.device)[question_B]
        self.question_Q.append(question_B[keep_B])
        self.correct_Q.append(correct_B[keep_B])
        for one in outputs:
            assert one.hidden_TD is not None
            assert one.base_logits_TE is not None
            kept = (one.hidden_TD[keep_B].float(), one.base_logits_TE[keep_B].float())
            self.rows.setdefault(one.layer, []).append(kept)

    def of(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return a layer's hidden states and logits, and who is right, in the order of the questions."""
        order_Q = joined_over_ranks(torch.cat(self.question_Q)).argsort()
        hidden, logits = zip(*self.rows[layer], strict=True)
        hidden_QD, logits_QE, correct_Q = (
            joined_over_ranks(torch.cat(one)) for one in (hidden, logits, self.correct_Q)
        )
        return hidden_QD[order_Q], logits_QE[order_Q], correct_Q[order_Q]


def ids_hash(ids: Iterable[str]) -> str:
    """Return the first 16 hex digits of sha256 over sorted question ids."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
