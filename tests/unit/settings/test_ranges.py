"""A number is refused exactly where it lies outside of what the key's words say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.settings.ranges import RANGES

NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False, width=32))


@pytest.mark.parametrize("key", RANGES)
@given(value=NUMBERS)
def test_a_range_holds_what_lies_between_its_ends(key, value):
    one = RANGES[key]
    a_share_above_1 = one.share and isinstance(value, float) and value > 1
    assert one.holds(value) == (one.least <= value <= one.most and not a_share_above_1)


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_range_holds_what_is_not_finite(key, value):
    assert not RANGES[key].holds(value)


@pytest.mark.parametrize("key", RANGES)
@pytest.mark.parametrize("value", [None, True, False, "auto", [1]])
def test_other_types_are_not_its_business(key, value):
    assert RANGES[key].holds(value)
