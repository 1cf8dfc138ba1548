"""Uploads to a loopback Hub: what arrives is what was written, and every way it fails is one line with a remedy."""

import json
import os
import subprocess
import sys

import pytest
from hub_uploads import UploadHub

PUSH = """
import json, sys
from pathlib import Path
from moe_tune.base.errors import MoeTuneError
from moe_tune.export.push import push_folder
folder, repository, private = json.loads(sys.argv[1])
try:
    print(json.dumps([0, push_folder(Path(folder), repository, private=private, message="a card")]))
except MoeTuneError as fault:
    print(json.dumps([fault.exit_code, str(fault)]))
"""


def push(url, folder, repository="me/mine", private=False, **more):
    """Upload in a process of its own, which reads the Hub's address when it starts."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        kept.pop(name, None)
    places = {"HF_ENDPOINT": url, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    told = json.dumps([str(folder), repository, private])
    environ = kept | places | {"HF_HUB_DISABLE_XET": "1"} | more
    done = subprocess.run([sys.executable, "-c", PUSH, told], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "card"
    made.mkdir()
    (made / "README.md").write_text("---\ntags: [moe_tune]\n---\n# mine\n", encoding="utf-8")
    (made / "router.safetensors").write_bytes(b"many numbers" * 100)
    return made


def test_a_folder_arrives_whole_and_a_second_time_on_top(folder):
    with UploadHub() as hub:
        code, commit = push(hub.url, folder, private=True, HF_TOKEN="hf_right")
        assert (code, hub.unknown, hub.private) == (0, [], {"me/mine"})
        repository = hub.repositories["me/mine"]
        assert repository.branches["main"] == commit
        assert repository.commits[commit] == {file.name: file.read_bytes() for file in folder.iterdir()}
        (folder / "card.json").write_text("{}", encoding="utf-8")
        code, later = push(hub.url, folder, HF_TOKEN="hf_right")
        assert code == 0
        assert set(repository.commits[later]) == {"README.md", "router.safetensors", "card.json"}


def test_every_fault_is_one_line_with_a_remedy(folder):
    with UploadHub() as hub:
        ends = {
            "no token": push(hub.url, folder),
            "wrong token": push(hub.url, folder, HF_TOKEN="hf_wrong"),
            "no name": push(hub.url, folder, "me/mine/or/not", HF_TOKEN="hf_right"),
            "offline": push(hub.url, folder, HF_TOKEN="hf_right", HF_HUB_OFFLINE="1"),
        }
        gone = hub.url
    ends["gone"] = push(gone, folder, HF_TOKEN="hf_right")
    said = {
        "no token": (7, "expected a token of the Hub but there is none"),
        "wrong token": (7, "answered with status 401"),
        "no name": (2, "expected the name of a repository, owner/name, but got 'me/mine/or/not'"),
        "offline": (7, "HF_HUB_OFFLINE is set"),
        "gone": (7, "expected to reach the Hub but got"),
    }
    for name, (code, text) in said.items():
        assert ends[name][0] == code, ends[name]
        assert text in ends[name][1]
        assert "Hint: " in ends[name][1]
        assert "\n" not in ends[name][1]
        assert "hf_right" not in ends[name][1]
