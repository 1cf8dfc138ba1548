"""Schedules: where they start, where they end, and that they never leave the range between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.schedule import scheduled

kinds = st.sampled_from(["constant", "linear", "cosine"])
values = st.floats(-5, 5)
shares = st.floats(0, 1)


@given(kind=kinds, start=values, end=values, warmup=st.floats(0, 0.9))
def test_the_ends(kind, start, end, warmup):
    assert scheduled(kind, start, end, warmup, warmup) == pytest.approx(start)
    assert scheduled(kind, start, end, 1.0, warmup) == pytest.approx(start if kind == "constant" else end, abs=1e-9)


@given(kind=kinds, start=values, end=values, one=shares, other=shares)
def test_the_way_is_monotone_and_stays_between(kind, start, end, one, other):
    early, late = (scheduled(kind, start, end, share) for share in sorted((one, other)))
    assert min(start, end) - 1e-9 <= early <= max(start, end) + 1e-9
    assert (late - early) * (end - start) >= -1e-9


@given(start=values, progress=shares)
def test_warm_up_rises_from_zero_in_proportion(start, progress):
    half = 0.5 * progress
    assert scheduled("constant", start, 0.0, half, 0.5) == pytest.approx(start * progress if progress < 1 else start)


def test_a_warm_up_of_the_whole_training_still_ends_at_a_value():
    assert scheduled("linear", 2.0, 1.0, 1.0, 1.0) == 1.0
    assert scheduled("linear", 2.0, 1.0, 0.5, 1.0) == 1.0
