"""The comparison's files: complete, honest in words, self-contained, the same bytes every time."""

import io
import json
import re

import pandas as pd
import pytest
from rich.console import Console

from moe_tune.compare.command import default_out, main
from moe_tune.compare.report import compare_runs, render_report, replace_file
from moe_tune.compare.table import render_terminal

FORBIDDEN = re.compile(r"\b(importan\w*|cause\w*|causal\w*|dispensab\w*|responsib\w*)", re.IGNORECASE)


@pytest.fixture(scope="module")
def compared(run_dirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return compare_runs(run_dirs["baseline"], [*run_dirs["retuned"], run_dirs["fixed"]], out), out


def test_four_files_and_nothing_else(compared):
    assert sorted(path.name for path in compared[1].iterdir()) == [
        "report.html",
        "summary.json",
        "table.csv",
        "table.md",
    ]


def test_report_is_self_contained_and_shows_each_arm(compared):
    html = (compared[1] / "report.html").read_text()
    assert "http" not in html
    assert "//" not in re.sub(r"base64,[^\"]*", "", html)
    for arm in ("untouched", "retuned", "fixed"):
        assert html.count(arm) >= 3
    assert html.count("<svg") >= 4
    assert "#a000" not in html  # no stand-in colour is left
    for colour in set(re.findall(r"var\((--[\w-]+)\)", html)):
        assert f"{colour}:" in html


def test_no_word_claims_more_than_association(compared):
    for file in compared[1].iterdir():
        text = re.sub(r"base64,[^\"]*", "", file.read_text())
        assert not FORBIDDEN.search(text), file.name
    assert "associational" in (compared[1] / "report.html").read_text()


def test_names_are_escaped(compared):
    html = render_report(compared[0], title="<script>alert(1)</script>")
    assert "<script" not in html


def test_summary_holds_each_arm_and_split(compared):
    comparison, out = compared
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["arms"]) == ["untouched", "retuned", "fixed"]
    retuned = summary["arms"]["retuned"]
    result = comparison.arms["retuned"].results["test"]
    assert retuned["ci95"] == list(result.ci95)
    assert (retuned["n"], retuned["diff"], retuned["p"]) == (240, result.diff, result.p)
    assert (retuned["decision"], retuned["seeds"]) == ("improved", [1, 2, 3])
    assert set(retuned["splits"]) == {"test", "test_nano_textbook"}
    baseline = summary["arms"]["untouched"]
    assert (baseline["diff"], baseline["ci95"], baseline["decision"]) == (0, [0, 0], "baseline")


def test_csv_has_one_row_per_arm_and_split_at_full_precision(compared):
    comparison, out = compared
    table = pd.read_csv(out / "table.csv", float_precision="round_trip").set_index(["arm", "split"])
    assert len(table) == 6
    for name, arm in comparison.arms.items():
        for split, result in arm.results.items():
            row = table.loc[(name, split)]
            assert (row["diff"], row["ci95_low"], row["p"]) == (result.diff, result.ci95[0], result.p)


def test_words_below_the_table_say_what_did_not_help(compared):
    text = (compared[1] / "table.md").read_text()
    assert "Improved: retuned." in text
    assert "Not shown to help or harm, inconclusive: fixed." in text
    assert "n = 240" in text
    assert "exact McNemar" in text
    assert "this router only" in text


def test_terminal_fits_a_narrow_window(compared):
    stream = io.StringIO()
    Console(file=stream, width=88).print(render_terminal(compared[0]))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 88
    assert "…" not in shown
    assert "inconclusive *" in shown


def test_same_runs_same_bytes(compared, run_dirs, tmp_path):
    compare_runs(run_dirs["baseline"], [*run_dirs["retuned"][::-1], run_dirs["fixed"]], tmp_path)
    for file in compared[1].iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.md"
    replace_file(file, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "new \ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.md", "old")]


def test_command_writes_beside_the_last_run_and_faults_have_no_traceback(run_dirs, capsys):
    baseline, arm = run_dirs["baseline"], run_dirs["retuned"][0]
    assert main([str(arm), "--baseline", str(baseline)]) == 0
    out = default_out(baseline, [arm])
    assert out.parent == arm.parent / "compare"
    assert (out / "report.html").is_file()
    assert "report:" in capsys.readouterr().out
    assert main([str(baseline)]) == 2
    assert main([str(baseline), str(baseline.parent / "nowhere")]) == 3
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.count("Hint:") == 2
