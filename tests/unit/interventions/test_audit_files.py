"""The tables and the page of an audit: what stands in them, and that they fit where they are shown."""

import io
import json

import pandas as pd
import pytest
from made_up_audit import made_up_audit
from rich.console import Console

from moe_tune.interventions.charts import CHARTS
from moe_tune.interventions.files import write_audit
from moe_tune.interventions.tables import lead, tables_of


@pytest.fixture(scope="module")
def audit():
    return made_up_audit()


def test_the_terminal_has_room_for_every_column(audit):
    for name, table in tables_of(audit, short=True).items():
        stream = io.StringIO()
        Console(file=stream, width=80).print(table.terminal())
        assert "…" not in stream.getvalue(), name


def test_the_largest_effect_comes_first_and_is_told(audit):
    first = tables_of(audit)["experts"]
    assert [column.cells[0].text for column in first.columns[:2]] == ["1", "3"]
    assert len(first.columns[0].cells) == 24
    assert len(tables_of(audit, short=True)["experts"].columns[0].cells) == 10
    told = " ".join(lead(audit))
    assert "expert 3 of layer 1" in told
    assert "1 of them change the right letter's log-probability" in told
    assert "what pruning would do: that takes --scope all" in told
    assert "pruning" not in " ".join(lead(made_up_audit(scope="all")))


def test_every_table_names_its_evidence(audit):
    evidence = {name: table.evidence for name, table in tables_of(audit).items()}
    assert evidence.pop("bridge") == "associational against interventional"
    assert set(evidence.values()) == {"interventional"}
    assert set(evidence) == {"experts", "layers", "sets", "patches"}


def test_files_hold_what_the_tables_show(audit, tmp_path):
    write_audit(audit, tmp_path)
    experts = pd.read_parquet(tmp_path / "experts.parquet")
    pd.testing.assert_frame_equal(experts, audit.experts)
    told = json.loads((tmp_path / "ablate.json").read_text())
    assert len(told["experts"]) == len(experts)
    page = (tmp_path / "ablate.html").read_text()
    assert all(f'data-figure="{name}"' in page for name in CHARTS)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        [
            *(f"ablate.{kind}" for kind in ("html", "json", "md", "png")),
            *(f"{name}.parquet" for name in ("experts", "layers", "sets", "bridge", "observed", "patches")),
        ]
    )
