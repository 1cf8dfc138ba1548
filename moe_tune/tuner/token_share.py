"""What a batch's tokens count among those of its optimiser step, for losses that are means over tokens."""

from lightning.pytorch import Trainer

from moe_tune.data.batching import BucketBatchSampler


def token_share(trainer: Trainer, batch_index: int) -> float:
    """Return a batch's tokens per question over those of its whole optimiser step, all micro-batches and processes.

    Every loss counts by its part of the step's questions. A mean over tokens that is multiplied by this counts by its
    part of the step's tokens instead, so that the step sees the mean over all of them, however it is cut; exactly 1 for
    one micro-batch on one process. The prompts of the step are known beforehand, from the sampler.
    """
    sampler = trainer.train_dataloader.sampler
    if not isinstance(sampler, BucketBatchSampler):  # Lightning's own, where it overfits to the same few batches
        return 1.0
    first = batch_index - batch_index % trainer.accumulate_grad_batches
    end = min(first + trainer.accumulate_grad_batches, int(trainer.num_training_batches))
    step = [sampler.batch_lengths(index) for index in range(first, end)]
    mine = sampler.batch_lengths(batch_index)[sampler.rank :: sampler.num_replicas]
    tokens, questions = sum(int(one.sum()) for one in step), sum(len(one) for one in step)
    return int(mine.sum()) * questions / (len(mine) * tokens)
