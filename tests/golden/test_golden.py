"""Small fits, an analysis and a comparison give the values of cfcf61f, to 1e-4; equal bits are for compare_with.py."""

import json

import pytest
from golden_values import FILE, NAMES, TIE, Runs, differences, margin

GOLDEN = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_what_they_were(name, runs):
    wanted, came = GOLDEN[name], runs.of(name)
    assert list(differences(wanted, came)) == []


@pytest.mark.parametrize("name", [name for name in NAMES if "letters" in GOLDEN[name]])
def test_the_letters_are_what_they_were(name, runs):
    wanted, came = GOLDEN[name]["letters"], runs.of(name)["letters"]
    clear = [key for key, one in wanted.items() if margin(one) > TIE]
    assert len(clear) > 0.9 * len(wanted)
    assert [letter(came[key]) for key in clear] == [letter(wanted[key]) for key in clear]


def letter(log_probs):
    return log_probs.index(max(log_probs))


def test_a_value_that_is_off_is_found():
    assert list(differences({"a": [1.0, "x"]}, {"a": [1.0 + 1e-5, "x"]})) == []
    assert list(differences({"a": [1.0, "x"]}, {"a": [1.0 + 1e-3, "y"]})) == ["/a/0: 1.0 -> 1.001", "/a/1: x -> y"]
    assert list(differences({"a": 1}, {})) == ["/a is only in one of them"]
