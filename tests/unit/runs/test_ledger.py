"""The ledger: one test under any name, identical openings once, nothing read where it cannot be written."""

import json
import os

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.runs.ledger import COPY, ledger_folder, openings_of, record, require_ledger
from moe_tune.runs.ledger import test_content as content_of

SAME = {"protocol": "lm_eval", "few_shot": 0, "config": "c" * 8, "weights": "w" * 16}


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def opening(test="t" * 16, run="one", time="2026-01-01", **changes):
    return {"test": test, "split": "test", "run": run, "time": time, **SAME, **changes}


def run_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_an_identical_opening_counts_once_and_every_difference_is_another():
    for number, changes in enumerate(
        ({}, {}, {"weights": "v"}, {"config": "d"}, {"protocol": "cloze"}, {"few_shot": 5})
    ):
        record(opening(time=f"2026-01-0{number + 1}", **changes), None)
    assert len(openings_of("t" * 16)) == 5
    assert openings_of("u" * 16) == []


def test_a_run_keeps_what_was_known_and_counts_without_the_state_folder(tmp_path, monkeypatch):
    record(opening(run="first"), run_folder(tmp_path, "first"))
    second = run_folder(tmp_path, "second")
    record(opening(run="second", weights="v"), second)
    record(opening(run="second", test="other"), second)
    lines = [json.loads(line) for line in (second / COPY).read_text().splitlines()]
    assert [(one["test"], one["run"]) for one in lines] == [
        ("t" * 16, "first"),
        ("t" * 16, "second"),
        ("other", "second"),
    ]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert openings_of("t" * 16) == []
    assert len(openings_of("t" * 16, [second])) == 2


def test_what_a_test_is_hangs_on_its_content_alone():
    assert content_of(["a 0", "b 1"]) == content_of(["b 1", "a 0"]) != content_of(["a 0", "b 2"])


@pytest.mark.parametrize("broken", ['{"test": "', "7", '{"test": "x"}', "\udcff"])
def test_a_broken_line_is_an_opening_of_which_nothing_is_known(broken):
    record(opening(), None)
    (file,) = ledger_folder().glob("*.jsonl")
    with file.open("ab") as handle:
        handle.write(broken.encode(errors="surrogateescape"))
    assert len(openings_of("t" * 16)) == 2
    record(opening(weights="v"), None)
    found = openings_of("t" * 16)
    assert [one["run"] for one in found] == ["", "one", "one"]
    assert file.read_text(errors="replace").count("\n") == 3


def test_of_runs_that_are_one_opening_all_are_known():
    for name in ("first", "second", "third"):
        record(opening(run=name), None)
    (one,) = openings_of("t" * 16)
    assert (one["run"], one["also"]) == ("third", ["first", "second"])


def test_a_file_that_cannot_be_written_is_refused():
    ledger_folder().mkdir(parents=True)
    (ledger_folder() / f"{'t' * 16}.jsonl").mkdir()
    with pytest.raises(ConfigError, match="this opening is not recorded"):
        record(opening(), None)


def test_a_state_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set XDG_STATE_HOME"):
        require_ledger()


def test_without_the_variable_it_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.fspath(ledger_folder()) == str(tmp_path / ".local" / "state" / "moe_tune" / "openings")


def test_a_run_that_takes_no_copy_leaves_the_opening_in_the_ledger(tmp_path, monkeypatch):
    def refuses(_):
        raise ConfigError("Read-only file system")

    monkeypatch.setattr("moe_tune.runs.ledger.published", refuses)
    with pytest.warns(UserWarning, match="takes no copy"):
        record(opening(), run_folder(tmp_path, "one"))
    assert len(openings_of("t" * 16)) == 1
