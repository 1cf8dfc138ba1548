"""A run that is tested on short answers: its files, its line, its history, its ledger; and a fault told before it."""

import pandas as pd
import pytest
from tiny_runs import TINY, history, manifest, openings, told_beside

from moe_tune.cli.main import main
from moe_tune.runs.answers import short_file

SHORT = ["--config", "configs/short_answers/nano.yaml", "--data.limit_test", "40", "--optimizer.lr", "0.1"]


def read(path, of=""):
    return pd.read_parquet(short_file(path, "test_short", of))


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Give the run directory of a fit that was tested on short answers, and what was said of it."""
    return told_beside(tmp_path_factory.mktemp("short"), *SHORT)


def test_a_run_keeps_both_answers_and_tells_them_in_a_line_its_history_and_the_ledger(answered):
    path, (line,) = answered
    tuned, base = read(path), read(path, ".base")
    assert list(tuned) == ["id", "content_hash", "prompt", "accepted", "answer", "correct"]
    pd.testing.assert_frame_equal(tuned.iloc[:, :4], base.iloc[:, :4])
    assert base["correct"].mean() > 0.8, "pages are what it was pretrained on"
    assert tuned["correct"].mean() < base["correct"].mean(), "a head that is trained for the quiz has a price"
    (logged,) = (one["test_short/exact_match"] for one in history(path) if "test_short/exact_match" in one)
    assert logged == tuned["correct"].mean()
    assert line.startswith(f"test_short: exact match {100 * logged:.1f} % (n 40, ")
    assert f"against the pretrained router's {100 * base['correct'].mean():.1f} %: " in line
    *_, opened = openings(path)
    assert (opened["split"], opened["questions"], opened["result"]) == ("test_short", 40, logged)
    assert opened["protocol"] == "short answers"
    told = manifest(path)["data"]["test_sources"]["test_short"]
    assert (told["source"]["class"], told["questions"], told["max_new_tokens"]) == ("NanoShortAnswers", 40, 1)


def test_a_test_of_its_checkpoint_gives_the_same_and_compare_shows_it(answered, tmp_path, capsys):
    path, _ = answered
    before = read(path), read(path, ".base")
    assert main(["test", str(path)]) == 0
    for one, of in zip(before, ("", ".base"), strict=True):
        pd.testing.assert_frame_equal(read(path, of), one)
    capsys.readouterr()
    assert main(["compare", str(path), "--out", str(tmp_path)]) == 0
    assert "test_short: exact match of greedy answers" in capsys.readouterr().out


def test_a_fault_in_short_answers_is_told_before_the_fit(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"question": "one?", "answer": "1"}\n{"question": "two?", "answer": []}\n')
    words = ["--data.test_sources.free=LocalShortAnswers", f"--data.test_sources.free.path={tmp_path / 'bad.jsonl'}"]
    assert main(["fit", *TINY, *words, "--runs_root", str(tmp_path / "runs")]) == 3
    assert "bad.jsonl:2: the answer is no text and no list of texts but []" in capsys.readouterr().err


def test_a_quiz_is_named_without_its_choices_on_the_command_line(tmp_path, capsys):
    words = ["--data.test_sources.free=WithoutChoices", "--data.test_sources.free.source=NanoQuiz"]
    words += ["--data.test_sources.free.template={question} A.", "--data.test_sources.free.max_new_tokens=1"]
    assert main(["test", *TINY, *words, "--config", "configs/head/identity.yaml", "--runs_root", str(tmp_path)]) == 0
    (path,) = (path for path in tmp_path.iterdir() if path.is_dir())
    kept = pd.read_parquet(short_file(path, "test_free"))
    assert kept["prompt"].str.endswith("? A.").all()
    assert main(["test", *TINY, *words, "--trainer.fast_dev_run", "true", "--runs_root", str(tmp_path)]) == 2
    assert "expected all questions of a test but got fast_dev_run" in capsys.readouterr().err
