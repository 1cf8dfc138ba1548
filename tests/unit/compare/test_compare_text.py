"""Text sources in a comparison: found, told in every file, refused where documents differ."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_runs import write_run
from rich.console import Console

from moe_tune.base.errors import DataError
from moe_tune.compare.pretrained import compare_with_pretrained
from moe_tune.compare.report import compare_runs
from moe_tune.compare.runs import load_run
from moe_tune.compare.terminal import render_terminal
from moe_tune.compare.text import compare_texts, require_same_documents


def frame(raised=0.0, documents=400, seed=0, tokens=20):
    draw = np.random.default_rng(5)
    loss_D = draw.gamma(9, 0.3, documents)
    names = [f"d{index:04d}" for index in range(documents)]
    noise_D = np.random.default_rng(seed).normal(0, 0.01, documents) if raised else 0.0
    return pd.DataFrame(
        {"id": names, "content_hash": names, "tokens": tokens + draw.integers(0, 9, documents)}
        | {"loss": loss_D * (1 + raised) + noise_D}
    )


def with_text(path, raised=0.0, seed=1, name="arm", **changes):
    """Write a run that read a text, and the pretrained router's losses beside its own."""
    write_run(path, name=name, seed=seed, gain=0.1 if raised else 0.0, trainable=64 if raised else 0)
    (path / "text").mkdir()
    for end, table in (("", frame(raised, seed=seed, **changes)), (".base", frame(**changes))):
        table.sample(frac=1, random_state=seed).to_parquet(path / "text" / f"test_page{end}.parquet")
    return path


@pytest.fixture
def runs(tmp_path):
    raised = [with_text(tmp_path / f"arm-s{seed}", 0.02, seed) for seed in (1, 2)]
    return with_text(tmp_path / "base-s1", name="base"), raised


def test_two_per_cent_of_loss_are_found_and_told_in_every_file(runs, tmp_path):
    base, raised = runs
    comparison = compare_runs(base, raised, tmp_path / "out")
    found = comparison.texts["test_page"]
    assert list(found) == ["base", "arm"]
    wanted, plain = found["arm"], frame()
    more = 0.02 * (plain["loss"] * plain["tokens"]).sum() / plain["tokens"].sum()
    assert wanted.diff == pytest.approx(more, rel=0.05)
    assert wanted.ci95[0] > 0
    assert (wanted.kept, found["base"].diff, found["base"].ci95) == ("harmed", 0.0, (0.0, 0.0))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    told = summary["arms"]["arm"]["text"]["test_page"]
    assert (told["diff"], told["ratio_ci95"]) == (wanted.diff, list(wanted.ratio_ci95))
    assert (told["documents"], len(told["seed_diffs"])) == (400, 2)
    for name in ("table.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert f"{wanted.ratio:.4f}" in text
        assert "paired bootstrap over documents, 10,000 draws" in text
    stream = io.StringIO()
    Console(file=stream, width=80).print(render_terminal(replace(comparison, notes=())))
    assert f"{wanted.diff:+.4f}" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert "…" not in stream.getvalue()


def test_a_run_alone_is_compared_with_what_it_keeps_of_the_pretrained_router(runs, tmp_path):
    for kind in ("questions", "routing"):
        for file in list((runs[1][0] / kind).iterdir()):
            shutil.copy(file, file.with_suffix(".base.parquet"))
    comparison = compare_with_pretrained(runs[1][0], tmp_path / "out")
    assert list(comparison.texts["test_page"]) == ["pretrained router", "arm"]
    assert comparison.texts["test_page"]["arm"].kept == "harmed"
    (runs[1][0] / "text" / "test_page.base.parquet").unlink()
    with pytest.raises(DataError, match=r"readable file but got nothing.*test_page\.base.*moe_tune fit"):
        compare_with_pretrained(runs[1][0], tmp_path / "out")


@pytest.mark.parametrize(("changes", "differ"), [({"documents": 390}, "10"), ({"tokens": 21}, "400")])
def test_other_documents_or_other_cuts_are_refused_in_one_line(runs, tmp_path, changes, differ):
    other = with_text(tmp_path / "other-s1", 0.02, name="other", **changes)
    with pytest.raises(DataError, match=f"same 400 documents, cut alike, but got {differ} that differ") as fault:
        compare_runs(runs[0], [other], tmp_path / "out")
    assert "\n" not in str(fault.value)
    require_same_documents(load_run(runs[0]), load_run(runs[1][0]), "test_page")


def test_a_text_that_a_run_did_not_read_is_left_out_and_said(runs, tmp_path):
    other = write_run(tmp_path / "other-s1", name="other", gain=0.1, trainable=64)
    comparison = compare_runs(runs[0], [other], tmp_path / "out")
    assert comparison.texts == {}
    assert "The text test_page is not compared: other-s1 did not read it." in comparison.notes
    assert "text" not in json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]["base"]


def test_a_single_document_is_left_out_and_said(tmp_path):
    one = load_run(with_text(tmp_path / "one-s1", documents=1))
    texts, notes = compare_texts({"one": [one]}, {"one": [one]})
    assert (texts, notes) == ({}, ("The text test_page is not compared: it is a single document.",))


def test_runs_without_text_say_nothing_of_it(run_dirs, tmp_path):
    comparison = compare_runs(run_dirs["baseline"], [run_dirs["fixed"]], tmp_path)
    assert comparison.texts == {}
    assert "<h2>Text</h2>" not in (tmp_path / "report.html").read_text()
