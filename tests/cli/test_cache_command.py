"""The verb ``cache``: everything kept is shown, and only what was meant, and nobody builds, is removed."""

import json
import os
import time

import pytest
import torch

from moe_tune.answer_path.store import StorePlan
from moe_tune.answer_path.store_writer import StoreWriter
from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import cache_lock
from moe_tune.cli import cache
from moe_tune.models.state_shape import StateShape

OLD, NEW, HALF = "aaaa000000000000", "aaab000000000000", "cccc000000000000"
DESCRIPTION = {
    "model": "org/model[7b]", "split": "test", "protocol": "lm_eval", "few_shot": 5, "kind": "prompts",
    "first_layer": 2, "layers": 4, "questions": 1,
}  # fmt: skip


def build(folder, publish=True):
    one = torch.ones(1, dtype=torch.long)
    plan = StorePlan(StateShape(2, 4, (), 8, 1, 4, torch.float32), one, -one, one[:0], one)
    with StoreWriter(folder, plan, DESCRIPTION) as writer:
        writer.write([0], torch.ones(1, 1, 8), torch.ones(2, 2, 1, 1, 1, 4), one)
        if publish:
            writer.publish()


@pytest.fixture
def root(tmp_path):
    """Give a folder with a cache not used for ten days, a new one, an unfinished build, and what is not ours."""
    for key in (OLD, NEW, HALF):
        build(tmp_path / key, publish=key != HALF)
    then = time.time() - 10 * 24 * 3600
    for path in (tmp_path / OLD, *(tmp_path / OLD).iterdir()):
        os.utime(path, (then, then))
    (tmp_path / "my notes").mkdir()
    (tmp_path / "my notes" / "a.txt").write_text("precious")
    return tmp_path


def main(argv):
    return cache.main(argv, {})


def listed(root, capsys):
    capsys.readouterr()
    assert main(["list", "--folder", str(root), "--format", "json"]) == 0
    return {one["key"]: one for one in json.loads(capsys.readouterr().out)}


def test_list_shows_what_is_complete_and_what_is_not(root, capsys, monkeypatch):
    (root / OLD / "answers.bin").unlink()
    kept = listed(root, capsys)
    assert {key: one["state"] for key, one in kept.items()} == {OLD: "damaged", NEW: "complete", HALF: "unfinished"}
    assert {key: kept[NEW][key] for key in DESCRIPTION} == DESCRIPTION
    assert kept[NEW]["bytes"] > 0
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["list", "--folder", str(root)]) == 0
    text = capsys.readouterr().out
    for word in (NEW, "(unfinished)", "(damaged)", "org/model[7b]", "lm_eval, 5-shot", "2-3"):
        assert word in text


def test_list_of_nothing_is_empty(tmp_path, capsys):
    assert listed(tmp_path / "none", capsys) == {}


def test_info_takes_a_unique_beginning(root, capsys):
    assert main(["info", "aaab", "--folder", str(root)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((root / NEW / "cache.json").read_text())
    assert main(["info", "c", "--folder", str(root)]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "unfinished"


def test_info_prefers_the_complete_cache_to_a_build_of_the_same_key(root, capsys):
    (root / NEW).rename(root / "aside")
    build(root / NEW, publish=False)
    (root / "aside").rename(root / NEW)
    assert main(["info", NEW, "--folder", str(root)]) == 0
    assert json.loads(capsys.readouterr().out)["description"] == DESCRIPTION


MISTAKES = {
    "several": (["info", "aaa"], "2 begin with"),
    "misspelt": (["info", "aaac000000000000"], "Did you mean aaa"),
    "unknown to clean": (["clean", "aaab", "zz"], "expected the key"),
    "nothing chosen": (["clean"], "--all"),
    "negative days": (["clean", "--older_than", "-1"], "from 0"),
    "not days": (["clean", "--older_than", "nan"], "from 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_remove_nothing(root, mistake, capsys):
    argv, words = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=words):
        main([*argv, "--folder", str(root)])
    assert set(listed(root, capsys)) == {OLD, NEW, HALF}


CHOICES = {
    "a key": (["aaaa"], {NEW, HALF}),
    "two keys": ([OLD, HALF], {NEW}),
    "all": (["--all"], set()),
    "unfinished": (["--unfinished"], {OLD, NEW}),
    "old": (["--older_than", "5"], {NEW, HALF}),
    "old and unfinished": (["--older_than", "5", "--unfinished"], {OLD, NEW, HALF}),
    "any age": (["--older_than", "0"], set()),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_clean_removes_what_was_chosen_and_nothing_else(root, choice, capsys):
    argv, left = CHOICES[choice]
    assert main(["clean", *argv, "--folder", str(root)]) == 0
    assert f"removed {3 - len(left)} of 3, freed " in capsys.readouterr().out
    assert set(listed(root, capsys)) == left
    assert (root / "my notes" / "a.txt").read_text() == "precious"
    assert not list(root.glob("*.lock*"))


def test_what_is_being_built_is_not_removed(root, capsys):
    with cache_lock(root / HALF):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on "):
            main(["clean", HALF, "--folder", str(root)])
        assert main(["clean", "--all", "--folder", str(root)]) == 0
        assert f"kept {HALF}: process {os.getpid()}" in capsys.readouterr().out
        assert set(listed(root, capsys)) == {HALF}
    assert main(["clean", "--all", "--folder", str(root)]) == 0
    assert listed(root, capsys) == {}
