"""A part of an analysis is kept whole and found again only for what it follows from."""

import math

import pandas as pd
import pytest

from moe_tune.analysis.kept import Part, keep, kept

PART = Part(
    {
        "layers": pd.DataFrame({"layer": [0, 1], "share": [0.1, math.nan], "flagged": [True, False]}),
        "pairs": pd.DataFrame({"name": ["a", None]}),
        "none": pd.DataFrame({"layer": pd.Series(dtype="int64")}),
    },
    {"accuracy": "50 %", "claims": [{"shots": 0, "scope": "answer"}]},
)


def test_what_was_kept_comes_back(tmp_path):
    keep(PART, tmp_path / "0-shot", "key")
    again = kept(tmp_path / "0-shot", "key")
    assert list(again.tables) == list(PART.tables)
    for name, table in PART.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_exact=True)
    assert again.facts == PART.facts


def test_what_follows_from_something_else_or_broke_off_is_not_found(tmp_path):
    assert kept(tmp_path / "0-shot", "key") is None
    keep(PART, tmp_path / "0-shot", "key")
    assert kept(tmp_path / "0-shot", "other") is None
    unwritable = Part({"layers": PART.tables["layers"]}, {"accuracy": object()})
    with pytest.raises(TypeError):
        keep(unwritable, tmp_path / "5-shot", "key")
    assert [one.name for one in tmp_path.iterdir()] == ["0-shot"]
