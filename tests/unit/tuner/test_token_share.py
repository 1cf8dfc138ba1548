"""However a step's questions are dealt out to batches and processes, every token counts once."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.data.batching import BucketBatchSampler
from moe_tune.tuner.token_share import token_share


def trainer_of(sampler, accumulated, batches):
    loader = SimpleNamespace(sampler=sampler)
    return SimpleNamespace(train_dataloader=loader, accumulate_grad_batches=accumulated, num_training_batches=batches)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=6, max_size=60),
    size=st.integers(1, 8),
    accumulated=st.integers(1, 5),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_parts_of_a_step_make_up_the_mean_over_its_tokens(lengths, size, accumulated, ranks, data):
    samplers = [BucketBatchSampler(lengths, size, True, 3, ranks, rank) for rank in range(ranks)]
    dealt = [list(sampler) for sampler in samplers]
    batches = data.draw(st.integers(1, len(samplers[0])), "limit_train_batches")
    for first in range(0, batches, accumulated):
        parts = [(index, rank) for index in range(first, min(first + accumulated, batches)) for rank in range(ranks)]
        asked = {part: dealt[part[1]][part[0]] for part in parts}
        every = [question for questions in asked.values() for question in questions]
        tokens = sum(lengths[question] for question in every)
        for (index, rank), questions in asked.items():
            share = token_share(trainer_of(samplers[rank], accumulated, batches), index)
            by_questions = len(questions) / len(every)  # what the training step gives every loss
            wanted = sum(lengths[question] for question in questions) / tokens
            assert by_questions * share == pytest.approx(wanted)


@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=40), size=st.integers(1, 16), epoch=st.integers(0, 3)
)
def test_one_batch_on_one_process_counts_exactly_as_it_did(lengths, size, epoch):
    sampler = BucketBatchSampler(lengths, size, True)
    for now in (0, epoch):
        sampler.set_epoch(now)
        assert {token_share(trainer_of(sampler, 1, len(sampler)), index) for index in range(len(sampler))} == {1.0}
        assert [sum(sampler.batch_lengths(i)) for i in range(len(sampler))] == [
            sum(lengths[question] for question in questions) for questions in sampler
        ]


def test_a_sampler_of_another_kind_says_nothing_of_its_prompts():
    assert token_share(trainer_of(torch.utils.data.SequentialSampler(range(4)), 2, 4), 1) == 1.0
