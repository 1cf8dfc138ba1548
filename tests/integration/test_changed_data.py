"""A file of questions that changes behind a run: nothing is made of both contents."""

import json
import shutil

import pytest
from tiny_runs import TINY, only_run

from moe_tune.cli.main import main


def write(file, count, first):
    rows = []
    for number in range(first, first + count):
        right = 2 * number + 1
        choices = [str(right + step) for step in (0, 1, 2, 3)]
        rows.append(
            {"question": f"What is {number} + {number + 1}?", "choices": choices, "answer": 0, "subject": "sums"}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(tmp_path):
    """Return a fit's words, its run and its questions, anew for each test."""
    file = tmp_path / "mine.jsonl"
    write(file, 200, 0)
    words = [*TINY, "--data.source=LocalFiles", f"--data.source.path={file}", "--data.test_protocols=[]"]
    words += [f"--runs_root={tmp_path / 'runs'}"]
    assert main(["fit", *words]) == 0
    return words, only_run(tmp_path / "runs"), file


def left(run):
    return {file.relative_to(run): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_what_was_made_of_other_questions_is_neither_complete_nor_evaluated_nor_continued(place, capsys):
    words, run, file = place
    write(file, 220, 0)
    before = left(run)
    capsys.readouterr()
    for verb in (["fit", *words], ["validate", str(run)], ["test", str(run)], ["predict", str(run)]):
        assert main(verb) == 3
        assert "--fresh" in capsys.readouterr().err
        assert left(run) == before
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "started"}))
    assert main(["fit", *words]) == 3
    assert main(["fit", *words, "--fresh"]) == 0
    assert main(["validate", str(run)]) == 0


def test_another_file_gets_a_folder_of_its_own_and_a_lost_one_leaves_the_fit_complete(place, tmp_path, capsys):
    words, run, file = place
    other = tmp_path / "other.jsonl"
    write(other, 220, 300)
    before = left(run)
    assert main(["test", str(run), f"--data.source.path={other}"]) == 0
    assert left(run) == before
    shutil.move(file, tmp_path / "elsewhere.jsonl")
    capsys.readouterr()
    assert main(["fit", *words]) == 0
    assert "already complete" in capsys.readouterr().out


def test_a_manifest_of_before_revisions_were_recorded_is_read_too(place):
    words, run, file = place
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest.pop("revisions") == {"source": manifest["data"]["source"]["revision"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["fit", *words]) == 0
    write(file, 210, 0)
    assert main(["fit", *words]) == 3
