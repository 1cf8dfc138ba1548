import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from made_up_analysis import CLAIMS, made_up_analysis
from made_up_evidence import made_up_evidence
from rich.console import Console

from moe_tune.analysis.charts import CHARTS
from moe_tune.analysis.files import Analysis, write_analysis
from moe_tune.analysis.findings import BESIDE
from moe_tune.analysis.gather import answers_text
from moe_tune.analysis.pretrained import pretrained_entropy
from moe_tune.analysis.report import render_report
from moe_tune.analysis.report_tables import tables_at
from moe_tune.analysis.terminal import print_terminal, render_terminal
from moe_tune.runs.answers import base_routing_file


@pytest.fixture(scope="module")
def analysis():
    return made_up_analysis()


@pytest.fixture(scope="module")
def small():
    return made_up_analysis(layers=2, experts=4, top_k=2, shots=(0,), scopes=("answer",))


@pytest.fixture(scope="module")
def out(analysis, tmp_path_factory):
    out = tmp_path_factory.mktemp("analysis")
    write_analysis(analysis, out)
    return out


class Outline(HTMLParser):
    """The start tags of a page, in order."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def having(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def test_every_table_is_written_twice_at_full_precision(analysis, out):
    files = {"report.html", "report.md", "report.tex", "summary.json"}
    files |= {f"{name}.{kind}" for name in analysis.tables() for kind in ("csv", "parquet")}
    assert {path.name for path in out.iterdir()} == files
    for name, frame in analysis.tables().items():
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{name}.parquet"), frame, check_dtype=False)
        back = pd.read_csv(out / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)


def test_page_asks_for_nothing_and_forbids_the_rest(out):
    outline = Outline((out / "report.html").read_text())
    assert not [tag for tag, _ in outline.tags if tag in ("link", "iframe", "object", "img", "base")]
    assert not outline.having("src")
    policy = next(attrs["content"] for _, attrs in outline.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


def test_every_setting_has_every_figure_and_table(analysis, out):
    html = (out / "report.html").read_text()
    outline = Outline(html)
    keys = {setting.key for setting in analysis.settings}
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', html, re.DOTALL)[1])
    assert set(figures) == set(outline.having("data-figure"))
    for name, drawn in figures.items():
        assert set(drawn) == ({"0|answer", "5|answer"} if name in BESIDE else keys)
    shown = outline.having("data-setting")
    for key in keys:
        # The line beside the switch, four claims, six tables; pairs and those of BESIDE at the answer token alone.
        assert shown.count(key) == 11 + 4 * key.endswith("answer")


def test_colours_of_figures_are_the_pages_own(out):
    html = (out / "report.html").read_text()
    figures = re.search(r'id="figures">(.*?)</script>', html, re.DOTALL)[1]
    for name in set(re.findall(r"var\((--[\w-]+)\)", figures)):
        assert html.count(f"{name}:") == 2, name  # one for light, one for dark


def test_real_size_stays_below_8_mb():
    html = render_report(
        made_up_analysis(16, 64, 8, 57, 14_042, scopes=("answer", "all", "instruction", "examples", "stem", "choices"))
    )
    assert len(html.encode()) < 8e6


def test_names_are_escaped(small):
    evil = "</script><script>alert(1)</script>"
    subjects = small.subjects.assign(subject=evil)
    html = render_report(replace(small, title=evil, subjects=subjects, notes=[evil]))
    assert "<script>alert" not in html


def test_ranking_leaves_out_experts_with_few_questions_and_names_none_twice(analysis):
    part = analysis.at(analysis.settings[0])
    table = tables_at(part)["ranked"]
    headers = [column.header for column in table.columns]
    pairs = [
        (row[headers.index("layer")], row[headers.index("expert")], row[headers.index("end")]) for row in table.rows()
    ]
    asked = part.experts.set_index(["layer", "expert"])["questions"]
    named = [(layer.value, expert.value) for layer, expert, *_ in pairs]
    assert len(set(named)) == len(named)
    assert all(asked[pair] >= 30 for pair in named)
    few = part.experts["questions"].between(30, 0.95 * part.layers["questions"].iloc[0], inclusive="left")
    for layer, rows in part.experts[few].groupby("layer"):
        ends = [end.text for of, _, end in pairs if of.value == layer]
        assert len(ends) == (min(6, len(rows)) if len(rows) > 1 else 0), "one alone has no order"
        if not ends:
            continue
        first = next(expert for of, expert in named if of == layer)
        assert rows.set_index("expert")["shrunk"].max() == rows.set_index("expert")["shrunk"][first]


def test_experts_that_serve_everybody_and_layers_without_spread_are_not_ranked(small):
    (setting,) = small.settings
    experts = small.experts.assign(questions=200, shrunk=0.5 + 0.1 * small.experts["expert"])
    experts.loc[experts["expert"] == 3, "questions"] = 570  # of 600
    experts.loc[experts["layer"] == 1, "shrunk"] = 0.5 + 1e-4 * experts["expert"]
    ranked = tables_at(replace(small, experts=experts).at(setting))["ranked"]
    rows = [(layer.value, expert.value) for layer, _, expert, *_ in ranked.rows()]
    assert rows == [(0, 2), (0, 1), (0, 0)]
    assert "2 that at least 95 % of the questions chose" in ranked.caption
    assert "differ by less than 0.1 points (1)" in ranked.caption
    level = replace(small, experts=experts[experts["layer"] == 1], layers=small.layers[small.layers["layer"] == 1])
    assert not list(tables_at(level.at(setting))["ranked"].rows())
    assert render_report(level)


def test_the_pretrained_routers_entropy_is_drawn_where_the_run_kept_it(small, tmp_path):
    file = base_routing_file(tmp_path, "test")
    file.parent.mkdir(parents=True)
    kept = made_up_evidence(layers=2, questions=600)
    kept.to_parquet(file)
    found = pretrained_entropy(tmp_path, "test", 0, small.layers)
    assert found["layer"].tolist() == [0, 1]
    (setting,) = small.settings
    part = replace(small, pretrained=found).at(setting)
    dashed = [mark for mark in CHARTS["entropy_topk"](part).marks if mark.dash == "dash"]
    assert [(mark.name, list(mark.y)) for mark in dashed] == [("pretrained router", pytest.approx([0.6, 0.55]))]
    assert CHARTS["entropy_topk_0"](part).y.ends[0] == 0
    for shots, split, layers in ((5, "test", small.layers), (0, "validation", small.layers)):
        assert pretrained_entropy(tmp_path, split, shots, layers).empty
    assert pretrained_entropy(tmp_path, "test", 0, small.layers.assign(tokens=599)).empty, "other questions"


def test_markdown_says_scope_shots_n_and_method_above_each_table(analysis, out):
    text = (out / "report.md").read_text()
    for setting in analysis.settings:
        section = text.split(f"\n## {setting.label}\n")[1].split("\n## ")[0]
        tables = section.split("\n### ")[1:]
        assert len(tables) == 5 + 3 * (setting.scope == "answer")
        for table in tables:
            assert f"Scope: {setting.label}" in table
            assert "Evidence: " in table
            lines = [line for line in table.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in lines}) == 1
        assert section.count("n = 600 questions") == 5 + (setting.scope == "answer")
    for claim, _ in CLAIMS:
        assert text.count(f"| {claim} |") == len(analysis.settings)


def test_terminal_is_one_screen_with_never_and_both_bounds(tmp_path):
    analysis = made_up_analysis(scopes=("answer", "all", "instruction", "examples", "stem", "choices"))
    stream = io.StringIO()
    print_terminal(Console(file=stream, width=80), analysis, tmp_path)
    *lines, files = stream.getvalue().splitlines()
    assert files.startswith(f"files: {tmp_path}/report.html, "), "never folded"
    assert len(files) > 80
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    never = [line for line in lines if "never fired" in line]
    assert len(never) == 4
    bounds = analysis.layers.iloc[0][["never_bound_one", "never_bound_all"]]
    for bound in bounds:
        assert f"{100 * bound:.2g} %" in never[0]
    assert "54.2 % [52.6, 55.7]" in stream.getvalue()
    assert "does not hold" in stream.getvalue()


def test_only_experts_that_are_flagged_and_can_be_ranked_are_named(small):
    def ends(**columns):
        stream = io.StringIO()
        experts = known.assign(**columns)
        Console(file=stream, width=80).print(render_terminal(replace(small, experts=experts)))
        return [line.strip() for line in stream.getvalue().splitlines() if " of them: " in line]

    experts = small.experts
    gap = (experts["expert"] - 1.5) / 10
    known = experts.assign(questions=200, shrunk=0.5 + gap, subject_gap=gap, flagged=False)
    assert ends() == []
    assert ends(flagged=experts["expert"] == 3, questions=600) == [], "they serve everybody"
    best, worst = ends(flagged=True)
    assert best.startswith("best of them: layer 0 expert 3, 65.0 % [")
    assert worst.startswith("worst of them: layer 0 expert 0, 35.0 % [")
    assert best.endswith("] of 200 questions, shrunk")
    assert len(ends(flagged=experts["expert"] == 2)) == 1, "one above, none below"


def test_no_sensitivity_is_an_empty_table_and_a_page_without_it(small, tmp_path):
    without = {name: frame for name, frame in small.tables().items() if name != "sensitivity"}
    bare = Analysis(small.title, small.lead, {}, claims=[], **without)
    write_analysis(bare, tmp_path)
    assert list(pd.read_csv(tmp_path / "sensitivity.csv"))[:3] == ["shots", "scope", "change"]
    assert Outline((tmp_path / "report.html").read_text()).having("data-figure").count("sensitivity") == 1


def test_same_analysis_same_bytes(small, tmp_path):
    for name in ("one", "other"):
        write_analysis(small, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes(), file.name


def test_what_the_answers_are_is_said_on_the_terminal_and_on_the_page(small, tmp_path):
    questions = pd.DataFrame({"prediction": [2] * 9, "letter_mass": [0.25] * 9})
    said = answers_text(questions)
    assert said == "letter mass 0.250; all 9 are C"
    assert answers_text(questions.assign(prediction=range(9))) == "letter mass 0.250"
    known = replace(small, about={**small.about, "answers": {"0-shot": said}})
    stream = io.StringIO()
    Console(file=stream, width=80).print(render_terminal(known))
    assert f"answers 0-shot: {said}" in stream.getvalue()
    assert said in render_report(known)
