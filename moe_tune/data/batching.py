"""Length-bucketed batches whose order depends on seed and epoch alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from moe_tune.base.errors import ConfigError
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.packed import PackedChoices

POOL = 50
"""Batches per bucket pool: large enough that a batch's prompts are of like length, small enough to stay random."""


class Batch(NamedTuple):
    """A batch of prompts; the answer letter is predicted at ``answer_position_B``.

    Args:
        input_ids_BS: Token ids, padded on the right.
        attention_mask_BS: 1 at real tokens, 0 at padding.
        answer_position_B: Position of the last prompt token.
        gold_B: Index of the right choice, from 0.
        question_B: Index of the question in its split's list.
        subject_B: Index of its subject in the list of subjects.
        choice_count_B: Number of its choices.
        choices: The choices behind each prompt under a cloze protocol; the last prompt token predicts their first.

    Shape:
        ``(B, S)`` and ``(B,)``, all int64; B questions, S tokens of the longest.
    """

    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor
    answer_position_B: torch.Tensor
    gold_B: torch.Tensor
    question_B: torch.Tensor
    subject_B: torch.Tensor
    choice_count_B: torch.Tensor
    choices: PackedChoices | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(None if value is None else value.to(device) for value in self))  # type: ignore[arg-type]


class PromptDataset(Dataset[Batch]):
    """The prompts of a split; asked for a list of indices, it answers with their batch."""

    def __init__(self, prompts: Sequence[PromptedQuestion], subjects: Sequence[str], pad_id: int) -> None:
        self.prompts = prompts
        self.pad_id = pad_id
        self._subject = {name: index for index, name in enumerate(subjects)}
        self._most = max((len(one.question.choices) for one in prompts), default=0)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, indices: list[int]) -> Batch:
        prompts = [self.prompts[one] for one in indices]
        lengths_B = torch.tensor([one.length for one in prompts])
        input_ids_BS = torch.nn.utils.rnn.pad_sequence(
            [one.row_S.long() for one in prompts], batch_first=True, padding_value=self.pad_id
        )
        return Batch(
            input_ids_BS=input_ids_BS,
            attention_mask_BS=(torch.arange(input_ids_BS.shape[1]) < lengths_B[:, None]).long(),
            answer_position_B=torch.tensor([len(one.ids_S) - 1 for one in prompts]),
            gold_B=torch.tensor([one.gold for one in prompts]),
            question_B=torch.tensor(indices),
            subject_B=torch.tensor([self._subject[one.question.subject] for one in prompts]),
            choice_count_B=torch.tensor([len(one.question.choices) for one in prompts]),
            choices=PackedChoices.of(prompts, self._most) if prompts[0].choices else None,
        )


class BucketBatchSampler(DistributedSampler[list[int]], SequentialSampler):
    """Yields lists of indices of like length, every index exactly once per epoch.

    With ``shuffle`` the order is a pure function of (seed, epoch); without, it is by length, longest first, so that a
    batch too large for the memory fails at once. It is a ``DistributedSampler`` because it deals the batches out to the
    processes itself: no index is repeated to even them out, and Lightning leaves such a sampler alone. To Lightning's
    ``overfit_batches`` it is a ``SequentialSampler``, which it would put in place of any other: one question at a time.
    Pass it to a ``DataLoader`` as ``sampler`` with ``batch_size=None``.

    Args:
        lengths: Tokens of each prompt.
        batch_size: Prompts per batch and process, from 1; the last batch may hold fewer (or, with several processes,
            one more).
        shuffle: Whether the order changes with the epoch.
        seed: From 0.
        num_replicas: Number of processes.
        rank: Which of them this is, from 0.
        scored: Tokens of each that are scored, where that is not one per prompt.

    Raises:
        ConfigError: ``batch_size`` or ``seed`` is out of range, or there are fewer prompts than processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        scored: Sequence[int] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"expected at least 1 but got {batch_size} (data.batch_size). Hint: 32 is a good start.")
        if seed < 0:
            raise ConfigError(f"expected a seed from 0 but got {seed} (data.seed). Hint: use 0.")
        if len(lengths) < num_replicas:
            raise ConfigError(
                f"expected at least {num_replicas} questions but got {len(lengths)} (data). Hint: use fewer devices."
            )
        super().__init__(range(len(lengths)), num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths = np.asarray(lengths)
        self.scored = np.ones_like(self.lengths) if scored is None else np.asarray(scored)
        self.batch_size = batch_size
        self._start = 0
        self._next = 0
        self._planned: tuple[int, list[np.ndarray[Any, np.dtype[np.int64]]]] | None = None

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size * self.num_replicas)
        # A rest that cannot give every process a prompt joins the batch before it.
        return max(full + (rest >= self.num_replicas), 1)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        start, self._start = self._start, 0
        batches = len(self)
        for self._next in range(start + 1, batches + 1):
            yield self.batch(self._next - 1)

    def batch(self, index: int) -> list[int]:
        """Return this process's part of a batch of this epoch."""
        mine: list[int] = self._plan()[index][self.rank :: self.num_replicas].tolist()
        return mine

    def batch_lengths(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the tokens of each prompt of a batch of this epoch, those of all processes."""
        lengths: np.ndarray[Any, np.dtype[np.int64]] = self.lengths[self._plan()[index]]
        return lengths

    def batch_scored(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the scored tokens of each prompt of a batch of this epoch, those of all processes."""
        scored: np.ndarray[Any, np.dtype[np.int64]] = self.scored[self._plan()[index]]
        return scored

    def _plan(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self._batches())
        return self._planned[1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a loaded position stays valid only in its own epoch."""
        if epoch != self.epoch:
            self._start = self._next = 0
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return the position: the epoch and the batch that comes next.

        With worker processes the sampler runs ahead of training: then only the trainer knows the position.
        """
        return {"epoch": self.epoch, "next_batch": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass start at a stored position, without replaying what came before it."""
        self.epoch = int(state["epoch"])
        self._start = self._next = int(state["next_batch"])

    def _batches(self) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        size = self.batch_size * self.num_replicas
        if not self.shuffle:
            return self._cut(np.argsort(-self.lengths, kind="stable"), size)
        generator = np.random.default_rng((self.seed, self.epoch))
        shuffled = generator.permutation(len(self.lengths))
        pools = [shuffled[start : start + POOL * size] for start in range(0, len(shuffled), POOL * size)]
        by_length = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = self._cut(by_length, size)
        return [batches[index] for index in generator.permutation(len(batches))]

    def _cut(self, order: np.ndarray[Any, np.dtype[np.int64]], size: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
        return np.split(order, range(size, size * len(self), size))
