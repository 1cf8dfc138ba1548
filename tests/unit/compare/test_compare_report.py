"""The comparison's files: complete, honest in words, self-contained, the same bytes every time."""

import io
import json
import re

import pandas as pd
import pytest
from made_up_runs import write_run
from rich.console import Console

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.cli.compare import default_out, main
from moe_tune.compare.comparison import compare_arms
from moe_tune.compare.report import compare_runs, render_report
from moe_tune.compare.runs import load_run
from moe_tune.compare.terminal import render_terminal


@pytest.fixture(scope="module")
def compared(run_dirs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return compare_runs(run_dirs["baseline"], [*run_dirs["retuned"], run_dirs["fixed"]], out), out


def test_six_files_and_nothing_else(compared):
    assert sorted(path.name for path in compared[1].iterdir()) == [
        "flips.csv",
        "report.html",
        "summary.json",
        "table.csv",
        "table.md",
        "table.tex",
    ]


def test_report_is_self_contained_and_shows_each_arm(compared):
    html = (compared[1] / "report.html").read_text()
    assert not re.search(r"<(?:link|iframe|object|img|base)\b|<[^>]+\bsrc=", html[: html.index("<script")])
    for arm in ("untouched", "retuned", "fixed"):
        assert html.count(arm) >= 3
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', html, re.DOTALL)[1])
    assert set(figures) == set(re.findall(r'data-figure="([\w-]+)"', html))
    assert {"entropy_topk", "entropy_all", "usage-2", "subjects-1", "forest-test"} <= set(figures)
    for colour in set(re.findall(r"var\((--[\w-]+)\)", html.partition("<script>")[0])):
        assert html.count(f"{colour}:") == 2  # one for light, one for dark


def test_names_are_escaped(compared):
    html = render_report(compared[0], title="<script>alert(1)</script>")
    assert "<script>alert" not in html


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
    assert "cluster-robust test, as content repeats" in text
    assert "this router only" in text


def test_the_markdown_table_holds_every_split_in_one(compared):
    comparison, out = compared
    lines = [line.split("|")[1:-1] for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    assert [row[0] for row in rows] == list(comparison.arms)
    for label in comparison.splits.values():
        for name in ("difference, points", "95 % interval", "p", "decision"):
            assert header.count(f"{label}: {name}") == 1
    assert header[-3:] == ["top-k entropy, nats", "never activated, %", "routed elsewhere, %"]
    place = header.index(f"{comparison.splits['test_nano_textbook']}: difference, points")
    shown = {row[0]: row[place] for row in rows}
    assert shown["retuned"] == f"{100 * comparison.arms['retuned'].results['test_nano_textbook'].diff:+.2f}"


def shown_at(comparison, width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(render_terminal(comparison))
    return stream.getvalue()


def test_terminal_of_80_columns_shows_names_and_figures_whole(compared, run_dirs):
    base = load_run(run_dirs["baseline"])
    arms = {
        "baseline": [base],
        "accuracy-biased": [load_run(path) for path in run_dirs["retuned"]],
        "an-arm-of-22-character": [load_run(run_dirs["fixed"])],
    }
    shown = shown_at(compare_arms(arms, "baseline"), 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for heading in ("accuracy %", "diff", "95 % interval", "p", "decision"):
        assert heading in shown
    for name in arms:
        assert sum(line.startswith(f"{name} ") for line in shown.splitlines()) == 3
    assert "inconclusive*" in shown
    assert "* one seed: this router only." in shown


def test_terminal_folds_names_too_long_and_cuts_none(compared, run_dirs):
    name = "demo-accuracy-biased-AccuracyBiasHead-s0-92508008"
    arms = {"baseline": [load_run(run_dirs["baseline"])], name: [load_run(run_dirs["fixed"])]}
    shown = shown_at(compare_arms(arms, "baseline"), 80)
    assert max(map(len, shown.splitlines())) <= 80
    first_words = "".join(line.split(" ")[0] for line in shown.splitlines())
    assert name in first_words


def test_marks_and_footnotes_agree(tmp_path):
    splits = ("test", "test_a", "test_b")
    base = load_run(write_run(tmp_path / "base", name="base", splits=splits))
    arm = load_run(write_run(tmp_path / "arm", name="arm", gain=0.3, splits=splits))
    free = compare_arms({"base": [base], "arm": [arm]}, "base")
    bound = compare_arms({"base": [base], "arm": [arm]}, "base", protocols=splits)
    signs = [result.diff > 0 for result in bound.arms["arm"].results.values()]
    assert signs == [True, False, False]
    # Undeclared splits never weigh on a decision; as wordings of one test two thirds of them have to agree.
    assert free.arms["arm"].results["test"].decision == "improved"
    assert bound.arms["arm"].results["test"].decision == "inconclusive"
    assert "! the sign" in shown_at(bound, 80)
    assert "! the sign" not in shown_at(free, 80)
    with pytest.raises(DataError, match="Did you mean test_a"):
        compare_arms({"base": [base], "arm": [arm]}, "base", protocols=("test", "tst_a", "test_b"))


def test_same_runs_same_bytes(compared, run_dirs, tmp_path):
    compare_runs(run_dirs["baseline"], [*run_dirs["retuned"][::-1], run_dirs["fixed"]], tmp_path)
    for file in compared[1].iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_command_writes_beside_the_last_run(run_dirs, capsys):
    baseline, arm = run_dirs["baseline"], run_dirs["retuned"][0]
    assert main([str(arm), "--baseline", str(baseline)], {}) == 0
    out = default_out(baseline, [arm])
    assert out.parent == arm.parent / "compare"
    assert (out / "report.html").is_file()
    assert "report:" in capsys.readouterr().out


def test_command_leaves_faults_to_the_command_line(run_dirs, capsys):
    baseline = run_dirs["baseline"]
    with pytest.raises(ConfigError, match=r"one run twice: .*Hint: python -m moe_tune compare"):
        main([str(baseline), str(baseline)], {})
    with pytest.raises(DataError, match="Hint:"):
        main([str(baseline), str(baseline.parent / "nowhere")], {})
    assert capsys.readouterr() == ("", "")
