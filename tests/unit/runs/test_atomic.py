"""Atomic writing: a reader sees the old or the new, never a part, and a failure leaves no litter."""

import json
import os

import pytest

from moe_tune.base.published import published, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "deep" / "result.txt"
    with published(target) as draft:
        draft.write_text("new")
        assert not target.exists()
        assert draft.parent == target.parent, "a rename must not cross a filesystem"
    assert target.read_text() == "new"
    assert names(target.parent) == ["result.txt"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_keeps_the_old_and_leaves_no_litter(tmp_path, folder):
    target = tmp_path / "result"

    def write(path, text):
        if folder:
            path.mkdir()
            path = path / "part.txt"
        path.write_text(text)

    with published(target) as draft:
        write(draft, "old")

    def interrupted():
        with published(target) as draft:
            write(draft, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "part.txt" if folder else target).read_text() == "old"
    assert names(tmp_path) == ["result"]


def test_a_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "checkpoint"
    for part in ("one", "two"):
        with published(target) as draft:
            (draft / "inner").mkdir(parents=True)
            (draft / "inner" / part).write_text(part)
    assert names(target / "inner") == ["two"], "nothing of the old one stays"
    assert names(tmp_path) == ["checkpoint"]


def test_everything_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (events.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    with published(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "part.txt").write_text("x")
    assert events.index(str(draft / "part.txt")) < events.index("replace")
    assert events[-1] == str(tmp_path), "the folder that holds the new name is flushed last"


def test_json_is_stable_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "Zürich"})
    write_json(tmp_path / "b.json", {"a": "Zürich", "b": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.json").read_text(encoding="utf-8")
    assert "Zürich" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": "Zürich", "b": 1}
