"""The setting ``model.layers`` names layers that exist, counted from the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError
from moe_tune.routing.layer_choice import choose_layers


@given(
    available=st.lists(st.integers(0, 40), unique=True, min_size=1, max_size=16).map(sorted), count=st.integers(1, 60)
)
def test_layers_are_chosen_from_the_end(available, count):
    assert choose_layers("all", available) == tuple(available)
    chosen = choose_layers(f"last-{count}", available)
    assert chosen == tuple(available[len(available) - len(chosen) :])
    assert len(chosen) == min(count, len(available))
    assert choose_layers(available[::-1], available) == tuple(available)


@pytest.mark.parametrize("layers", ["last-0", "last-", "last-x", "last-²", "first-2", "", [], [9], [1, 1], [-1]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(ConfigError, match=r"model\.layers"):
        choose_layers(layers, [0, 1, 2])
