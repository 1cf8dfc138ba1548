"""What a batch's tokens count among those of its optimiser step, for losses that are means over tokens."""

from lightning.pytorch import Trainer

from moe_tune.data.batching import BucketBatchSampler
from moe_tune.data.joint_batching import JointBatchSampler


def token_share(trainer: Trainer, batch_index: int) -> float:
    """Return a batch's tokens per question over those of its whole optimiser step, all micro-batches and processes.

    Every loss counts by its part of the step's questions. A mean over tokens that is multiplied by this counts by its
    part of the step's tokens instead, so that the step sees the mean over all of them, however it is cut; exactly 1 for
    one micro-batch on one process. The prompts of the step are known beforehand, from the sampler.
    """
    sampler = trainer.train_dataloader.sampler
    return _share(trainer, batch_index, sampler, "batch_lengths")


def scored_share(trainer: Trainer, batch_index: int) -> float:
    """Return the same of the tokens that are scored, which the loss of text is a mean over."""
    return _share(trainer, batch_index, trainer.train_dataloader.sampler, "batch_scored")


def text_share(trainer: Trainer, batch_index: int) -> float:
    """Return what the text beside a quiz batch counts more or less than the questions it comes with.

    The step's loss is weighed by questions; times this, that of text counts by its part of the step's scored tokens.
    """
    sampler = trainer.train_dataloader.sampler
    if not isinstance(sampler, JointBatchSampler):  # Lightning's own, where it overfits to the same few batches
        return 1.0
    step = _step(trainer, batch_index)
    questions = sum(len(sampler.batch_lengths(index)) for index in step)
    tokens = sum(int(sampler.text_scored(index).sum()) for index in step)
    mine = int(sampler.text_scored(batch_index)[sampler.rank :: sampler.num_replicas].sum())
    return mine * sampler.num_replicas * questions / (len(sampler.batch_lengths(batch_index)) * tokens)


def _share(trainer: Trainer, batch_index: int, sampler: object, counted: str) -> float:
    if not isinstance(sampler, BucketBatchSampler):  # Lightning's own, where it overfits to the same few batches
        return 1.0
    count = getattr(sampler, counted)
    step = [count(index) for index in _step(trainer, batch_index)]
    mine = count(batch_index)[sampler.rank :: sampler.num_replicas]
    tokens, questions = sum(int(one.sum()) for one in step), sum(len(one) for one in step)
    return int(mine.sum()) * questions / (len(mine) * tokens)


def _step(trainer: Trainer, batch_index: int) -> range:
    """Return the batches of the optimiser step that a batch is part of."""
    first = batch_index - batch_index % trainer.accumulate_grad_batches
    return range(first, min(first + trainer.accumulate_grad_batches, int(trainer.num_training_batches)))
