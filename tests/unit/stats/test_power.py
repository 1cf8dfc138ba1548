"""The power formula gives the known numbers of questions and differences, and is its own inverse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from moe_tune.base.errors import ConfigError
from moe_tune.stats.power import power_of, questions_needed, smallest_detectable

MMLU = 14_042
# Discordance; points that 14,042 questions find; questions for one and for half a point, rounded to the nearest.
TABLE = (
    (0.02, 0.33, 1_567, 6_277),
    (0.05, 0.53, 3_922, 15_695),
    (0.08, 0.67, 6_277, 25_114),
    (0.10, 0.75, 7_847, 31_393),
    (0.15, 0.92, 11_771, 47_091),
    (0.20, 1.06, 15_695, 62_789),
    (0.25, 1.18, 19_620, 78_486),
)


@pytest.mark.parametrize(("discordance", "points", "for_one", "for_half"), TABLE)
def test_the_known_table_of_mmlu(discordance, points, for_one, for_half):
    assert questions_needed(discordance, 0.01) in (for_one, for_one + 1)
    assert questions_needed(discordance, 0.005) in (for_half, for_half + 1)
    assert round(100 * smallest_detectable(MMLU, discordance), 2) == points


@settings(max_examples=100, deadline=None)
@given(
    st.integers(50, 100_000),
    st.floats(0.005, 0.6),
    st.floats(0.5, 4),
    st.floats(0.001, 0.2),
    st.floats(0.3, 0.99),
)
def test_the_smallest_detectable_difference_solves_the_formula(n, discordance, effect, alpha, power):
    found = smallest_detectable(n, discordance, effect, alpha, power)

    def excess(diff):
        reach = norm.ppf(1 - alpha / 2) * math.sqrt(discordance) + norm.ppf(power) * math.sqrt(discordance - diff**2)
        return n / effect - (reach / diff) ** 2

    if math.isinf(found):
        assert excess(discordance) < 1e-6 * n
    else:
        assert found == pytest.approx(brentq(excess, 1e-7, discordance, xtol=1e-15), rel=1e-6)
        assert power_of(n, discordance, found, alpha, effect) == pytest.approx(power, abs=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.05, 1), st.floats(0.3, 0.99))
def test_one_question_fewer_than_needed_is_too_few(discordance, part, power):
    diff = discordance * part
    needed = questions_needed(discordance, diff, power=power)
    if diff**2 < discordance and needed > 1:
        assert power_of(needed, discordance, diff) >= power - 1e-9
        assert power_of(needed - 1, discordance, diff) < power


def test_a_design_effect_multiplies_the_questions():
    assert abs(questions_needed(0.1, 0.01, design_effect=2.0) - 2 * questions_needed(0.1, 0.01)) <= 1
    assert smallest_detectable(2 * MMLU, 0.1, 2.0) == pytest.approx(smallest_detectable(MMLU, 0.1))
    assert questions_needed(0.1, -0.01) == questions_needed(0.1, 0.01)


def test_what_no_difference_can_show_is_infinite():
    assert math.isinf(smallest_detectable(1_000, 0.0))
    assert math.isinf(smallest_detectable(20, 0.05))
    assert np.isfinite(smallest_detectable(1_000, 0.05))


@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda: questions_needed(0, 0.01), "discordance"),
        (lambda: questions_needed(0.05, 0), "diff"),
        (lambda: questions_needed(0.05, 0.06), "diff"),
        (lambda: questions_needed(0.05, 0.01, alpha=1), "alpha"),
        (lambda: questions_needed(0.05, 0.01, power=0), "power"),
        (lambda: smallest_detectable(0, 0.05), "n"),
        (lambda: smallest_detectable(10, 1.5), "discordance"),
        (lambda: smallest_detectable(10, 0.5, 0), "design_effect"),
        (lambda: power_of(100, 0.05, 0.06), "diff"),
    ],
)
def test_a_number_out_of_range_is_named(call, key):
    with pytest.raises(ConfigError, match=rf"expected .* but got .* \({key}\)\. Hint: "):
        call()
