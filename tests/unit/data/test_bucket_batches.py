from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError
from moe_tune.data.batching import BucketBatchSampler, PromptDataset
from moe_tune.data.encoding import PromptedQuestion
from moe_tune.data.question import number_questions

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=300)
batch_size = st.integers(1, 40)
seed = st.integers(0, 2**40)
epoch = st.integers(0, 1000)


@given(lengths=lengths, size=batch_size, shuffle=st.booleans(), seed=seed, epoch=epoch)
def test_every_question_once_per_epoch(lengths, size, shuffle, seed, epoch):
    sampler = BucketBatchSampler(lengths, size, shuffle, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(chain(*batches)) == list(range(len(lengths)))
    assert len(batches) == len(sampler) == -(-len(lengths) // size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


@given(lengths=lengths, size=batch_size, seed=seed, epoch=epoch)
def test_order_is_a_function_of_seed_and_epoch(lengths, size, seed, epoch):
    fresh = BucketBatchSampler(lengths, size, True, seed)
    fresh.set_epoch(epoch)
    used = BucketBatchSampler(lengths, size, True, seed)
    torch.rand(1)
    list(used)
    used.set_epoch(epoch)
    assert list(fresh) == list(used) == list(fresh)


def test_order_changes_with_seed_and_epoch():
    orders = []
    for chosen in (0, 1):
        sampler = BucketBatchSampler(range(1, 200), 8, True, chosen)
        for number in (0, 1):
            sampler.set_epoch(number)
            orders.append(str(list(sampler)))
    assert len(set(orders)) == 4


@given(lengths=lengths, size=batch_size, seed=seed, epoch=epoch, data=st.data())
def test_resuming_anywhere_gives_the_remaining_batches(lengths, size, seed, epoch, data):
    sampler = BucketBatchSampler(lengths, size, True, seed)
    sampler.set_epoch(epoch)
    stop = data.draw(st.integers(0, len(sampler)))
    iterator = iter(sampler)
    before = [next(iterator) for _ in range(stop)]
    state = sampler.state_dict()
    resumed = BucketBatchSampler(lengths, size, True, seed)
    resumed.load_state_dict(state)
    # Lightning announces the epoch again before its first batch.
    resumed.set_epoch(epoch)
    assert before + list(resumed) == list(sampler)
    assert list(resumed) == list(sampler)


def test_a_position_does_not_outlive_its_epoch():
    sampler = BucketBatchSampler(range(1, 50), 4, True)
    sampler.load_state_dict({"epoch": 2, "next_batch": 3})
    sampler.set_epoch(3)
    assert len(list(sampler)) == len(sampler)


def test_an_abandoned_pass_starts_over():
    sampler = BucketBatchSampler(range(1, 50), 4)
    first = next(iter(sampler))
    assert next(iter(sampler)) == first


@given(lengths=lengths, size=batch_size, shuffle=st.booleans(), processes=st.integers(1, 4), epoch=epoch)
def test_processes_share_every_question_once(lengths, size, shuffle, processes, epoch):
    if len(lengths) < processes:
        lengths = lengths * processes
    shares = []
    for rank in range(processes):
        sampler = BucketBatchSampler(lengths, size, shuffle, 1, processes, rank)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    assert len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in share)
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(len(lengths)))


@given(lengths=lengths, size=batch_size)
def test_evaluation_goes_from_long_to_short(lengths, size):
    order = list(chain(*BucketBatchSampler(lengths, size)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)


def test_buckets_save_padding():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(50, 500, (2000,), generator=generator).tolist()

    def padded(batches):
        return sum(max(sizes[index] for index in batch) * len(batch) for batch in batches)

    random = torch.randperm(2000, generator=generator).split(16)
    assert padded(BucketBatchSampler(sizes, 16, True)) < 1.1 * sum(sizes) < padded(one.tolist() for one in random)


@pytest.mark.parametrize(("size", "seed", "processes"), [(0, 0, 1), (-1, 0, 1), (4, -1, 1), (4, 0, 11)])
def test_bad_arguments(size, seed, processes):
    with pytest.raises(ConfigError):
        BucketBatchSampler(range(1, 11), size, True, seed, processes)


@given(
    rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=8), pad=st.integers(0, 9)
)
def test_padding_never_changes_ids(rows, pad):
    asked = number_questions(("ba"[i % 2], f"{i}?", tuple("wxyz"[: 2 + i % 3]), i % 2) for i in range(len(rows)))
    prompts = [
        PromptedQuestion(one, torch.tensor(ids, dtype=torch.int32), 0) for one, ids in zip(asked, rows, strict=True)
    ]
    indices = list(reversed(range(len(rows))))
    batch = PromptDataset(prompts, ["a", "b"], pad)[indices]
    assert batch.choices is None
    assert all(one.dtype == torch.int64 for one in batch[:-1])
    for b, index in enumerate(indices):
        mask = batch.attention_mask_BS[b].bool()
        assert batch.input_ids_BS[b][mask].tolist() == rows[index]
        assert (batch.input_ids_BS[b][~mask] == pad).all()
        assert mask[: len(rows[index])].all()
        assert batch.answer_position_B[b] == len(rows[index]) - 1
        assert batch.gold_B[b] == asked[index].answer
        assert batch.question_B[b] == index
        assert ["a", "b"][batch.subject_B[b]] == asked[index].subject
        assert batch.choice_count_B[b] == len(asked[index].choices)
