"""However a step's questions are dealt out to batches and processes, every token counts once."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.data.batching import BucketBatchSampler
from moe_tune.data.joint_batching import JointBatchSampler
from moe_tune.tuner.token_share import scored_share, text_share, token_share


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
    blocks=st.lists(st.tuples(st.integers(2, 90), st.integers(1, 90)), min_size=6, max_size=60),
    questions=st.integers(6, 50),
    size=st.integers(1, 8),
    accumulated=st.integers(1, 5),
    ranks=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_scored_tokens_of_text_count_alike_alone_and_beside_a_quiz(blocks, questions, size, accumulated, ranks, epoch):
    lengths, scored = [one for one, _ in blocks], [min(one) for one in blocks]
    alone = [BucketBatchSampler(lengths, size, True, 3, ranks, rank, scored) for rank in range(ranks)]
    beside = [
        JointBatchSampler(
            BucketBatchSampler(lengths, size, True, 3, ranks, rank, scored), [5] * questions, size, True, 3, ranks, rank
        )
        for rank in range(ranks)
    ]
    for one in (*alone, *beside):
        one.set_epoch(epoch)
    for samplers, share_of in ((alone, scored_share), (beside, text_share)):
        dealt = [list(sampler) for sampler in samplers]
        batches = len(samplers[0])
        for first in range(0, batches, accumulated):
            steps = range(first, min(first + accumulated, batches))
            parts = [(index, rank) for index in steps for rank in range(ranks)]
            joint = samplers is beside
            weighed = {part: dealt[part[1]][part[0]][0] if joint else dealt[part[1]][part[0]] for part in parts}
            text = {part: dealt[part[1]][part[0]][1] if joint else dealt[part[1]][part[0]] for part in parts}
            every = sum(len(one) for one in weighed.values())
            tokens = sum(scored[block] for chosen in text.values() for block in chosen)
            for index, rank in parts:
                share = share_of(trainer_of(samplers[rank], accumulated, batches), index)
                # Beside a quiz the step weighs a micro-batch by its questions on all processes, and takes their mean.
                together = sum(len(weighed[index, other]) for other in range(ranks)) / ranks
                given_weight = (together if joint else len(weighed[index, rank])) / every
                mine = sum(scored[block] for block in text[index, rank])
                assert given_weight * share == pytest.approx(mine / tokens)


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
