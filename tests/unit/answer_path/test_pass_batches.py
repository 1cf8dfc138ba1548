"""The batches of a pass: every question once, one prefix each, within the limit, and no other cut is cheaper."""

import itertools
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.answer_path.build import BATCH_PRICE, PASS_TOKENS, pass_batches

QUESTION = st.tuples(st.integers(0, 2000), st.integers(-1, 2))


def batches_of(rows):
    plan = SimpleNamespace(own_length_Q=torch.tensor([length for length, _ in rows], dtype=torch.long))
    return pass_batches(range(len(rows)), plan, SimpleNamespace(prefix_Q=[prefix for _, prefix in rows]))


def price(lengths):
    return (max(lengths) + 1) * len(lengths) + BATCH_PRICE


@given(st.lists(QUESTION, max_size=60))
def test_every_question_is_in_one_batch_of_its_prefix_within_the_limit(rows):
    batches = batches_of(rows)
    assert sorted(itertools.chain(*batches)) == list(range(len(rows)))
    for batch in batches:
        assert len({rows[index][1] for index in batch}) == 1
        padded = price([rows[index][0] for index in batch]) - BATCH_PRICE
        assert padded <= PASS_TOKENS or len(batch) == 1


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=7))
def test_no_cut_of_the_sorted_questions_is_cheaper(lengths):
    came = sum(price([lengths[index] for index in batch]) for batch in batches_of([(one, -1) for one in lengths]))
    falling = sorted(lengths, reverse=True)
    costs = []
    for cuts in itertools.product([False, True], repeat=len(falling) - 1):
        places = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(falling)]
        parts = [falling[start:end] for start, end in itertools.pairwise(places)]
        if all(len(part) == 1 or price(part) - BATCH_PRICE <= PASS_TOKENS for part in parts):
            costs.append(sum(price(part) for part in parts))
    assert came == min(costs)
