"""Sets as they are written, and the experts of like usage that an expert is held against."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError
from moe_tune.interventions.plan import (
    Intervention,
    members_of,
    read_set,
    read_sets,
    reference_draws,
    refuse_unknown,
    single,
)
from moe_tune.interventions.plan import usage_matched as matched


@pytest.mark.parametrize("text", ["", "a", "a=", "a=1", "a=1:x", "a=1:2,2", "a=1:2;1:2", "=1:2"])
def test_a_set_that_is_not_written_as_one_is_refused(text):
    with pytest.raises(ConfigError, match="--sets"):
        read_set(text)


@given(st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 63), min_size=1, max_size=5), min_size=1))
def test_a_set_is_read_as_it_was_written(experts):
    text = ";".join(f"{layer}:{','.join(map(str, some))}" for layer, some in experts.items())
    assert read_set(f"name={text}") == ("name", members_of({layer: list(some) for layer, some in experts.items()}))


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"a name for each set.*--sets"):
        read_sets(["pair=1:2,3", "pair=2:4"])


@given(st.lists(st.floats(0, 1), min_size=4, max_size=40), st.data())
def test_references_are_different_sets_of_other_experts_of_the_nearer_half(usage, data):
    usage_E = np.array(usage)
    members = data.draw(st.lists(st.integers(0, len(usage) - 1), min_size=1, max_size=len(usage) // 2, unique=True))
    drawn = matched(usage_E, members)
    assert drawn == matched(usage_E, members)
    assert len(set(drawn)) == len(drawn) <= 20
    for one in drawn:
        assert len(set(one)) == len(members)
        assert not set(one) & set(members)
    if len(members) == 1:
        others = [one for one in range(len(usage)) if one not in members]
        assert len(drawn) == min(20, len(others))
        far = sorted(abs(usage_E[others] - usage_E[members[0]]))[max(len(usage) // 2, min(len(others), 20)) - 1 :][:1]
        assert all(abs(usage_E[one] - usage_E[members[0]]) <= limit for (one,) in drawn for limit in far)


def test_references_of_a_set_over_layers_keep_its_layers():
    usage = {1: np.linspace(0, 1, 16), 3: np.linspace(1, 0, 16)}
    drawn = reference_draws(Intervention("mask", ((1, (2, 3)), (3, (5,)))), usage)
    assert 10 < len(drawn) <= 20
    assert all([layer for layer, _ in one.members] == [1, 3] for one in drawn)
    assert all([len(some) for _, some in one.members] == [2, 1] for one in drawn)


def test_what_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="layers with experts"):
        refuse_unknown(single("mask", 9, 0), [0, 1], 8)
    with pytest.raises(ConfigError, match="experts from 0 to 7"):
        refuse_unknown(single("mask", 1, 8), [0, 1], 8)
    with pytest.raises(ConfigError, match="one expert"):
        refuse_unknown(Intervention("swap", ((1, (0, 1)),)), [0, 1], 8)
