"""No writer says more of routing statistics than that they are associational."""

import ast
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_up_analysis import made_up_analysis
from made_up_audit import made_up_audit
from made_up_runs import write_run
from rich.console import Console

from moe_tune.analysis.files import write_analysis
from moe_tune.analysis.terminal import render_terminal
from moe_tune.compare.report import compare_runs
from moe_tune.compare.terminal import render_terminal as render_comparison
from moe_tune.interventions.files import write_audit
from moe_tune.interventions.tables import tables_of

ROOT = Path(__file__).parents[3]
GOVERNED = re.compile(r"\b(?:importance|important(?:ly)?|causes?|responsible|dispensable)\b", re.IGNORECASE)


class Reader(HTMLParser):
    """What a reader of a page can see: text, titles and the data of its figures; not its styles and programs."""

    def __init__(self, html):
        super().__init__()
        self.seen, self.skips = [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.skips = tag in ("style", "script") and attrs.get("type") != "application/json"
        self.seen += [attrs[name] for name in ("title", "aria-label", "placeholder") if attrs.get(name)]

    def handle_endtag(self, tag):
        self.skips = False

    def handle_data(self, data):
        if not self.skips:
            self.seen.append(data)


def printed(renderable):
    stream = io.StringIO()
    Console(file=stream, width=80).print(renderable)
    return stream.getvalue()


def said_in(folder):
    for file in sorted(folder.iterdir()):
        if file.suffix == ".html":
            yield file.name, "\n".join(Reader(file.read_text()).seen)
        elif file.suffix == ".png":
            continue
        elif file.suffix == ".parquet":
            yield file.name, " ".join(pd.read_parquet(file).columns)
        else:
            yield file.name, file.read_text()


def test_analysis_writers(tmp_path):
    analysis = made_up_analysis()
    write_analysis(analysis, tmp_path)
    written = dict(said_in(tmp_path)) | {"terminal": printed(render_terminal(analysis))}
    assert len(written) == 21
    assert {name: GOVERNED.findall(text) for name, text in written.items() if GOVERNED.search(text)} == {}
    for name in ("report.html", "report.md", "terminal"):
        assert "associational" in written[name]
    assert set(analysis.experts["evidence"]) == {"associational"}


def test_comparison_writers(tmp_path):
    baseline = write_run(tmp_path / "one", name="one")
    arm = write_run(tmp_path / "other", name="other", gain=0.1)
    comparison = compare_runs(baseline, [arm], tmp_path / "out")
    written = dict(said_in(tmp_path / "out")) | {"terminal": printed(render_comparison(comparison))}
    assert {name: GOVERNED.findall(text) for name, text in written.items() if GOVERNED.search(text)} == {}


def test_ablation_writers(tmp_path):
    """What is observed stands beside what was done: the words are for the latter alone, and are not used so far."""
    audit = made_up_audit()
    write_audit(audit, tmp_path)
    tables = tables_of(audit, short=True)
    written = dict(said_in(tmp_path)) | {name: printed(table.terminal()) for name, table in tables.items()}
    governed = {name: GOVERNED.findall(text) for name, text in written.items() if GOVERNED.search(text)}
    assert governed == {}
    assert set(audit.experts["evidence"]) == {"interventional"}
    assert set(audit.observed["evidence"]) == {"associational"}
    for name in ("ablate.html", "ablate.md"):
        assert "associational against interventional" in written[name]


@pytest.mark.parametrize(
    "folder",
    [
        *("interventions", "analysis", "callbacks", "compare", "criteria", "pruning", "reports", "stats", "metrics"),
    ],
)
def test_what_the_code_can_print(folder):
    """Headers, captions and table names are strings of the code; its docstrings are read by nobody it writes for."""
    for file in sorted((ROOT / "moe_tune" / folder).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        spoken = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
                assert not GOVERNED.search(node.value), f"{file.name}: {node.value!r}"


def test_the_reader_sees_text_and_figure_data_but_no_program():
    page = '<p title="important">x</p><script>var causes</script><script type="application/json">"dispensable"</script>'
    assert GOVERNED.findall(" ".join(Reader(page).seen)) == ["important", "dispensable"]
