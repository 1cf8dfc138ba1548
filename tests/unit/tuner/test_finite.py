"""Which tensors and which terms of an objective are not finite."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.tuner.finite import TOLD, blamed, not_finite, questions_told

NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=4)


@given(st.dictionaries(st.text(max_size=3), st.none() | NUMBERS, max_size=4))
def test_exactly_the_tensors_with_an_odd_number_are_named(values):
    tensors = {name: None if one is None else torch.tensor(one) for name, one in values.items()}
    wanted = [name for name, one in tensors.items() if one is not None and not bool(one.isfinite().all())]
    assert not_finite(tensors) == wanted


def test_the_term_is_blamed_whose_gradient_is_odd_though_its_value_is_not():
    weight = torch.nn.Parameter(torch.zeros(3))
    parts = {"task": (1.0, weight.sum()), "steep": (0.5, weight.square().sum().sqrt())}
    assert all(bool(value.isfinite()) for _, value in parts.values())
    assert blamed(parts, [weight]) == ["steep"]


def test_a_message_names_few_questions():
    assert questions_told([str(one) for one in range(TOLD + 3)]).endswith("7 and 3 more.")
