"""A run beside the pretrained router, and what a page says of data, protocol and configurations."""

import json
import shutil

import pandas as pd
import pytest
from made_up_runs import write_run

from moe_tune.base.errors import DataError
from moe_tune.cli.compare import main
from moe_tune.compare.pretrained import PRETRAINED, compare_with_pretrained
from moe_tune.compare.report import compare_runs
from moe_tune.runs.answers import BASE, BEST, base_routing_file, questions_file

READ = {"source": {"class": "NanoQuiz", "arguments": {"seed": 0}, "revision": "nano-quiz-1-seed0"}}
READ["test_sources"] = {"test_mine": {"source": {"class": "LocalFiles", "revision": "sha256:1"}}}


def beside(run, base, splits):
    """Put another run's answers into a run, as those of the pretrained router."""
    for split in splits:
        shutil.copy(questions_file(base, split), questions_file(run, split, BASE))
        shutil.copy(base / "routing" / f"{split}.parquet", base_routing_file(run, split))
    return run


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    base = write_run(root / "nano-Identity-s1-aaaa", name="untouched", data=READ)
    run = write_run(root / "nano-Retuned-s1-bbbb", name="retuned", gain=0.15, trainable=64, data=READ)
    return beside(run, base, ("test", "test_nano_textbook")), base


def test_a_run_alone_compares_as_with_a_run_of_the_pretrained_router(pair, tmp_path):
    run, base = pair
    alone = compare_with_pretrained(run, tmp_path / "alone")
    two = compare_runs(base, [run], tmp_path / "two")
    assert (alone.baseline, alone.splits) == (PRETRAINED, two.splits)
    assert alone.arms["retuned"].results == two.arms["retuned"].results
    assert alone.arms[PRETRAINED].results == two.arms["untouched"].results
    told = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert told["arms"][PRETRAINED]["trainable_parameters"] == 0


def test_the_page_names_data_protocol_and_what_the_configurations_differ_in(pair, tmp_path):
    run, base = pair
    compare_runs(base, [run], tmp_path)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["data"] == "NanoQuiz (seed 0), nano-quiz-1-seed0; test_mine: LocalFiles, sha256:1"
    assert told["protocols"] == "test: nano_quiz; test_nano_textbook: nano_textbook"
    assert told["retuned differs in"] == "model.head.class_path: IdentityHead -> RetunedHead"
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("nano-quiz-1-seed0", "nano_textbook", "IdentityHead -&gt; RetunedHead"))


def test_without_a_test_the_best_checkpoints_validation_is_compared(tmp_path):
    base = write_run(tmp_path / "base", splits=("validation",))
    run = beside(write_run(tmp_path / "run", name="a", gain=0.2, splits=("validation",)), base, ["validation"])
    last = compare_with_pretrained(run, tmp_path / "out").arms["a"].results["validation"]
    frame = pd.read_parquet(questions_file(run, "validation"))
    frame.assign(prediction=frame["gold"]).to_parquet(questions_file(run, "validation", BEST))
    best = compare_with_pretrained(run, tmp_path / "out").arms["a"].results["validation"]
    assert last.accuracy < best.accuracy == 1


def test_a_run_of_before_is_told_how_to_get_the_answers(tmp_path):
    run = write_run(tmp_path / "run", gain=0.1)
    (run / "checkpoints" / "best.ckpt").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"test --ckpt_path .*best\.ckpt` adds them, and so does `fit` with --fresh true"
    ):
        compare_with_pretrained(run, tmp_path / "out")


@pytest.mark.slow
def test_bare_names_on_the_command_line(pair, monkeypatch, tmp_path, capsys):
    (tmp_path / "runs").symlink_to(pair[0].parent)
    monkeypatch.chdir(tmp_path)
    assert main([pair[0].name], {}) == 0
    assert main([pair[1].name, pair[0].name], {}) == 0
    assert (pair[0].parent / "compare" / f"{pair[0].name}-pretrained" / "report.html").is_file()
    assert capsys.readouterr().out.count("improved") == 2
    with pytest.raises(DataError, match=f"Did you mean {pair[0].name}"):
        main([pair[0].name[:-1]], {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"neither {pair[0].name} nor runs/{pair[0].name}.*--runs_root FOLDER"):
        main([pair[0].name], {})
    assert main([pair[0].name, "--runs_root", "../runs"], {}) == 0
