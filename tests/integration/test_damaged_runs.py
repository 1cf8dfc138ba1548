"""Files of a run that a crash or a hand has damaged: every verb that reads them says so, and takes none as it is."""

import hashlib
import json
import shutil

import pytest
from tiny_runs import TINY, openings

from moe_tune.cli.main import main

SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]
NEITHER = {"nothing": b"", "binary": b"\x00\xff\xfe"}
NO_JSON = NEITHER | {"a list": b"[1]", "null": b"null", "a word": b'"x"', "deep": b"[" * 99999}
NO_MAPPING = NEITHER | {"a list": b"- 1\n", "twice": b"model: {}\nmodel: {}\n"}


@pytest.fixture
def run(finished, tmp_path):
    """Give a copy of a finished run, whose folder may be damaged."""
    return shutil.copytree(finished, tmp_path / "runs" / finished.name)


def refused(capsys, *argv, codes=(2, 3, 4)):
    code = main([*map(str, argv)])
    said = capsys.readouterr().err
    assert code in codes, said
    told = [line for line in said.splitlines() if line.startswith("moe_tune: ")]
    assert len(told) == 1
    assert "expected" in told[0]
    assert "Hint: " in told[0]
    return told[0]


@pytest.mark.parametrize("content", NO_JSON.values(), ids=NO_JSON)
def test_a_manifest_that_is_none(content, run, capsys):
    (run / "manifest.json").write_bytes(content)
    root = ["--runs_root", run.parent]
    assert "manifest.json" in refused(capsys, "fit", *TINY, *SHORT, *root)
    assert "manifest.json" in refused(capsys, "validate", run)
    assert "manifest.json" in refused(capsys, "compare", run)
    assert main(["list", "runs", "--runs_root", str(run.parent)]) == 0
    assert "damaged: manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("content", NO_MAPPING.values(), ids=NO_MAPPING)
def test_a_configuration_that_is_none(content, run, capsys):
    (run / "config.yaml").write_bytes(content)
    assert "config.yaml" in refused(capsys, "compare", run)
    assert main(["list", "runs", "--runs_root", str(run.parent)]) == 0


def test_a_test_is_recorded_whatever_has_become_of_the_configuration(run, capsys):
    (run / "config.yaml").write_bytes(b"")
    before = len(openings(run))
    assert main(["test", str(run)]) == 0
    assert len(openings(run)) > before


@pytest.mark.parametrize("line", ["[1]", "7", "{", '{"step": 1'])
def test_a_row_of_the_history_that_is_none(line, run, capsys):
    history = run / "metrics.jsonl"
    first, *rest = history.read_text().splitlines()
    history.write_text("\n".join([first, line, *rest]) + "\n")
    assert "line 2" in refused(capsys, "compare", run)


def test_a_table_that_is_cut_is_told_of_in_the_list(run, capsys):
    for table in (run / "questions").glob("*.parquet"):
        table.write_bytes(table.read_bytes()[:100])
    refused(capsys, "compare", run)
    assert main(["list", "runs", "--runs_root", str(run.parent)]) == 0
    assert "damaged: " in capsys.readouterr().out


@pytest.mark.parametrize("started", [7, "yesterday", None])
def test_a_time_that_is_none_leaves_the_age_out(started, run, capsys):
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"started": started}))
    assert main(["list", "runs", "--runs_root", str(run.parent)]) == 0
    assert run.name[:20] in capsys.readouterr().out


def signed(checkpoint):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    hashes = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in manifest["sha256"]}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": hashes}))


WRONG = {
    "config.yaml": [b"", b"- 1\n", b"model: 3\n", b"model: {}\ndata: 3\n"],
    "state.json": [b"{}", b'{"global_step": "x"}', b"[1]"],
    "manifest.json": [b'{"format": 2, "sha256": {"router.safetensors": 7}}', b"[" * 99999],
}


@pytest.mark.parametrize(("file", "content"), [(file, one) for file, given in WRONG.items() for one in given])
def test_a_checkpoint_that_holds_something_else_whatever_its_hashes_say(file, content, run, capsys):
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / file).write_bytes(content)
        if file != "manifest.json":
            signed(checkpoint)
    for argv in (["validate", run], ["export", run], ["fit", *TINY, "--ckpt_path", run / "checkpoints" / "last.ckpt"]):
        assert str(run) in refused(capsys, *argv)


def test_numbers_are_said_of_no_other_checkpoint_than_theirs(run, tmp_path, capsys):
    last = run / "checkpoints" / "last.ckpt"
    assert main(["export", str(run), "--output", str(tmp_path / "best")]) == 0
    assert json.loads((tmp_path / "best" / "card.json").read_text())["metrics"]
    shutil.rmtree(run / "checkpoints" / "best.ckpt")
    for argv in (["export", run], ["test", run], ["trace", run, "The capital"]):
        assert str(last) in refused(capsys, *argv, codes=(4,))
    assert main(["export", str(last), "--output", str(tmp_path / "last")]) == 0
    assert json.loads((tmp_path / "last" / "card.json").read_text())["metrics"] == []
