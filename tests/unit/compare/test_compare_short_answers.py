"""Short answers in a comparison: paired as letters are, told in every file, refused where questions differ."""

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
from moe_tune.compare.terminal import render_terminal
from moe_tune.stats.mcnemar import mcnemar


def frame(lost=0.0, questions=400, seed=0, end="?"):
    right_Q = np.random.default_rng(5).random(questions) < 0.6
    right_Q &= np.random.default_rng(seed).random(questions) >= lost
    names = [f"d{index:04d}" for index in range(questions)]
    return pd.DataFrame(
        {"id": names, "content_hash": names, "prompt": [f"{one}{end}" for one in names]}
        | {"accepted": [["yes", "Yes."]] * questions, "answer": np.where(right_Q, "yes", ""), "correct": right_Q}
    )


def with_answers(path, lost=0.0, seed=1, name="arm", most=16, **changes):
    """Write a run that answered short questions, and the pretrained router's answers beside its own."""
    data = {"data": {"test_sources": {"test_free": {"max_new_tokens": most}}}}
    write_run(path, name=name, seed=seed, gain=0.1 if lost else 0.0, trainable=64 if lost else 0, **data)
    (path / "short_answers").mkdir()
    for end, table in (("", frame(lost, seed=seed, **changes)), (".base", frame(**changes))):
        table.sample(frac=1, random_state=seed).to_parquet(path / "short_answers" / f"test_free{end}.parquet")
    return path


@pytest.fixture
def runs(tmp_path):
    return with_answers(tmp_path / "base-s1", name="base"), with_answers(tmp_path / "arm-s1", 0.2)


def test_answers_that_were_lost_are_found_and_told_in_every_file(runs, tmp_path):
    comparison = compare_runs(runs[0], [runs[1]], tmp_path / "out")
    base, arm = comparison.short_answers["test_free"].values()
    before, after = frame()["correct"], frame(0.2, seed=1)["correct"]
    lost = int((before & ~after).sum())
    assert (arm.n01, arm.n10, arm.n) == (0, lost, 400)
    assert arm.diff == pytest.approx(-lost / 400)
    assert (arm.p, arm.midp) == mcnemar(0, lost)
    assert (base.decision, arm.decision) == ("baseline", "worse")
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]["arm"]["short_answers"]["test_free"]
    assert (told["exact_match"], told["diff"], told["n10"]) == (after.mean(), arm.diff, lost)
    for name in ("table.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "test_free: exact match of greedy answers" in text or name == "table.md"
        assert f"{100 * arm.diff:+.2f}" in text
        assert "equals an accepted text without case, punctuation and articles" in text
    stream = io.StringIO()
    Console(file=stream, width=80).print(render_terminal(replace(comparison, notes=())))
    assert f"{100 * arm.diff:+.2f}" in stream.getvalue()
    assert "worse*" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 80


def test_several_arms_are_decided_after_holms_correction(runs, tmp_path):
    other = with_answers(tmp_path / "other-s1", 0.02, name="other", seed=2)
    found = compare_runs(runs[0], [runs[1], other], tmp_path / "out").short_answers["test_free"]
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]
    p_holm = {name: told[name]["short_answers"]["test_free"]["p_holm"] for name in found}
    assert p_holm["base"] == 1.0
    assert p_holm["arm"] == pytest.approx(min(1.0, 2 * found["arm"].p))
    assert p_holm["other"] == pytest.approx(found["other"].p)
    assert "p, Holm" in (tmp_path / "out" / "table.md").read_text()


def test_a_run_alone_is_compared_with_what_it_keeps_of_the_pretrained_router(runs, tmp_path):
    for kind in ("questions", "routing"):
        for file in list((runs[1] / kind).iterdir()):
            shutil.copy(file, file.with_suffix(".base.parquet"))
    comparison = compare_with_pretrained(runs[1], tmp_path / "out")
    assert comparison.short_answers["test_free"]["arm"].decision == "worse"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": 390}, "same 400 .* got 10 "),
        ({"end": "!"}, "got 400"),
        ({"most": 8}, "max_new_tokens but got 16 in base-s1 and 8"),
    ],
)
def test_other_questions_prompts_or_lengths_are_refused_in_one_line(runs, tmp_path, changes, said):
    other = with_answers(tmp_path / "other-s1", 0.2, name="other", **changes)
    with pytest.raises(DataError, match=said) as fault:
        compare_runs(runs[0], [other], tmp_path / "out")
    assert "\n" not in str(fault.value)


def test_a_source_that_a_run_was_not_asked_is_left_out_and_said(runs, tmp_path):
    other = write_run(tmp_path / "other-s1", name="other", gain=0.1, trainable=64)
    comparison = compare_runs(runs[0], [other], tmp_path / "out")
    assert comparison.short_answers == {}
    assert "The source of short answers test_free is not compared: other-s1 did not read it." in comparison.notes
    assert "<h2>Short answers</h2>" not in (tmp_path / "out" / "report.html").read_text()
