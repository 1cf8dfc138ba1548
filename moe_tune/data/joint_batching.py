"""Batches of the quiz and of text side by side, for a training on both."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from moe_tune.data.batching import Batch, BucketBatchSampler, PromptDataset
from moe_tune.data.text_batching import TextBatch, TextDataset

Pair = tuple[list[int], list[int]]
"""Indices of questions and of blocks."""


class JointBatch(NamedTuple):
    """A batch of questions and one of text.

    Args:
        quiz: The questions.
        text: The blocks.
    """

    quiz: Batch
    text: TextBatch

    def to(self, device: torch.device) -> "JointBatch":
        """Return the batch on a device."""
        return JointBatch(self.quiz.to(device), self.text.to(device))


class JointDataset(Dataset[JointBatch]):
    """Prompts and blocks; asked for a pair of lists of indices, it answers with their batches."""

    def __init__(self, quiz: PromptDataset, text: TextDataset) -> None:
        self.quiz, self.text = quiz, text

    def __getitem__(self, indices: Pair) -> JointBatch:
        questions, blocks = indices
        return JointBatch(self.quiz[questions], self.text[blocks])


class JointBatchSampler(BucketBatchSampler):
    """Yields the batches of a quiz, each with the next one of a text, which begins anew where it ends.

    An epoch is the quiz's. Which text goes with a batch is a pure function of seed, epoch and place.

    Args:
        text: The text's own sampler, of the same processes.
        quiz: Arguments of the quiz's, as of ``BucketBatchSampler``.
    """

    def __init__(self, text: BucketBatchSampler, *quiz: Any, **more: Any) -> None:
        super().__init__(*quiz, **more)
        self.text = text

    def __iter__(self) -> Iterator[Pair]:  # type: ignore[override]
        for questions in super().__iter__():
            yield questions, self.text.batch(self._turn(self._next - 1))

    def text_scored(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the scored tokens of each block beside a batch of this epoch, those of all processes."""
        return self.text.batch_scored(self._turn(index))

    def _turn(self, index: int) -> int:
        epoch, place = divmod(self.epoch * len(self) + index, len(self.text))
        self.text.set_epoch(epoch)
        return place
