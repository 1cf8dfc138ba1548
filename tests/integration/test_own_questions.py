"""A file of one's own, of 2 to 16 choices and no split: fitted, tested again, analysed, compared."""

import json
from random import Random

import pytest
from tiny_runs import TINY, answers, manifest, only_run

from moe_tune.cli.main import main
from moe_tune.data.question import LETTERS

MODEL = ["--model.base.path=random", "--model.base.tokenizer=olmo-eval", "--data.protocol=lm_eval"]
"""The nano model knows the letters A to D only."""
LIKE = [
    *MODEL,
    "--runs_root=runs",
    "--data.source=LocalFiles",
    "--data.test_protocols=[]",
    "--trainer.enable_progress_bar=false",
]
LIMITS = [f"--data.limit_{split}=null" for split in ("train", "validation", "test")]


def questions(count, answer):
    draw = Random(0)
    for number in range(count):
        options = [str(one) for one in draw.sample(range(100), 2 + number % 15)]
        right = draw.randrange(len(options))
        yield {
            "question": f"Number {number}?",
            "options": options,
            "answer": answer(right),
            "category": f"c{number % 2}",
        }


def write(folder, rows):
    folder.mkdir()
    (folder / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return f"--data.source.path={folder / 'mine.jsonl'}"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def fitted(desk):
    path = write(desk / "quiz", questions(150, LETTERS.__getitem__))
    assert main(["fit", *TINY, *LIKE, *LIMITS, path, f"--runs_root={desk / 'runs'}"]) == 0
    return only_run(desk / "runs")


def test_the_split_is_made_by_content_and_recorded(fitted):
    data = manifest(fitted)["data"]
    sizes = [data["splits"][split]["n"] for split in ("train", "validation", "test")]
    assert sum(sizes) == 150
    assert min(sizes) > 10
    assert data["split_from_test"] is True
    assert data["notes"] == ["read as MMLU-Pro: question, options, answer, category"]


def test_every_question_has_its_own_letters_and_their_mass(fitted):
    frame = answers(fitted)
    assert set(frame["choices"]) <= set(range(2, 17))
    assert frame["choices"].nunique() > 10
    assert (frame["log_probs"].map(len) == frame["choices"]).all()
    assert frame["letter_mass"].between(0, 1).all()


@pytest.mark.slow
def test_the_checkpoint_is_tested_and_analysed_on_the_same_questions(fitted, desk, capsys):
    before = answers(fitted)
    (fitted / "questions" / "test.parquet").unlink()
    assert main(["test", f"--ckpt_path={fitted / 'checkpoints' / 'best.ckpt'}"]) == 0
    assert list(answers(fitted)["id"]) == list(before["id"])
    out = desk / "analysis"
    assert main(["analyze", str(fitted), "--shots", "0", "--sensitivity", "0", "--out", str(out)]) == 0
    about = json.loads((out / "summary.json").read_text())["about"]
    assert about["questions"] == len(before)
    assert about["answers"]["0-shot"].startswith("letter mass ")


def test_without_a_checkpoint_all_questions_are_asked(fitted, desk, capsys):
    path = f"--data.source.path={desk / 'quiz' / 'mine.jsonl'}"
    assert main(["test", *TINY, *LIKE, *LIMITS, path, f"--runs_root={desk / 'whole'}"]) == 0
    assert len(answers(only_run(desk / "whole"))) == 150


@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
def test_answers_counted_from_one_end_with_code_3(tmp_path, capsys, on_bad_row):
    path = write(tmp_path / "quiz", questions(150, lambda right: right + 1))
    command = ["fit", *TINY, *LIKE, path, f"--runs_root={tmp_path / 'runs'}", f"--data.on_bad_row={on_bad_row}"]
    assert main(command) == 3
    assert "counted from 1?" in capsys.readouterr().err
