"""Data sets of the Hub in the layouts that files may have, by id and pinned commit, from a Hub on the loopback."""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer, Repository

from moe_tune.base.errors import ConfigError
from moe_tune.data.hub_questions import HubQuestions

COMMIT, MOVED_ON = "a" * 40, "d" * 40
READ = """
import json, sys
from moe_tune.base.errors import MoeTuneError
from moe_tune.data.hub_questions import HubQuestions
from moe_tune.data.validation import validate_split
said = []
for options in json.loads(sys.argv[1]):
    try:
        source = HubQuestions(**options)
        read = validate_split(source, "test")
        said.append([source.splits(), len(read.questions), read.questions[0].stem, source.notes[0], source.revision()])
    except MoeTuneError as fault:
        said.append([fault.exit_code, str(fault)])
print(json.dumps(said))
"""


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def pro(edition):
    stem = f"{edition} question"
    return [
        {"question": f"{stem} {n}?", "options": list("xyz"), "answer": "ABC"[n % 3], "category": "law"}
        for n in range(6)
    ]


ARC = [
    {"id": str(n), "question": f"arc {n}?", "choices": {"text": list("xyz"), "label": list("123")}, "answerKey": "2"}
    for n in range(4)
]
TABLE = "".join([",Question,A,B,C,D,Answer\n", *(f"{n},mmmlu {n}?,w,x,y,z,{'ABCD'[n % 4]}\n" for n in range(4))])
FILES = {
    "datasets/maker/pro": {"data/test-00000-of-00001.parquet": parquet(pro("pinned")), "README.md": b"# Pro\n"},
    "datasets/maker/arc": {
        f"ARC-{kind}/{split}-00000-of-00001.parquet": parquet(ARC[: 4 - (kind == "Easy")])
        for kind in ("Easy", "Challenge")
        for split in ("train", "validation", "test")
    },
    "datasets/maker/many": {"test/law.csv": TABLE.encode(), "test/maths.csv": TABLE.replace("mmmlu", "sums").encode()},
}
ASKED = [
    {"path": "maker/pro", "revision": COMMIT},
    {"path": "maker/arc", "revision": COMMIT, "config": "ARC-Challenge"},
    {"path": "maker/many", "revision": COMMIT},
    {"path": "maker/arc", "revision": COMMIT, "config": "ARC-Hard"},
]


def test_layouts_of_the_hub_are_read_at_their_commit_and_again_without_it(tmp_path):
    moved = {"data/test-00000-of-00001.parquet": parquet(pro("newer"))}
    repositories = {
        name: Repository({COMMIT: files, MOVED_ON: moved}, {"main": MOVED_ON}) for name, files in FILES.items()
    }
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept.pop("HF_HUB_OFFLINE", None)
    with HubServer(repositories) as hub:
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", READ, json.dumps(ASKED)]
        first = subprocess.run(command, env=kept | places, capture_output=True, text=True)
        assert first.returncode == 0, first.stderr
        assert hub.unknown == []
    found = json.loads(first.stdout.splitlines()[-1])
    assert [one[:3] for one in found[:3]] == [
        [["test"], 6, "pinned question 0?"],
        [["train", "validation", "test"], 4, "arc 0?"],
        [["test"], 8, "mmmlu 0?"],
    ]
    assert ["MMLU-Pro" in found[0][3], "ARC" in found[1][3], "one column per choice" in found[2][3]] == [True] * 3
    assert found[1][4] == f"maker/arc/ARC-Challenge@{COMMIT}"
    assert found[3][0] == 3
    assert "expected the folder 'ARC-Hard'" in found[3][1]
    again = subprocess.run(
        [*command[:3], json.dumps(ASKED[:3])],
        env=kept | places | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert json.loads(again.stdout.splitlines()[-1]) == found[:3], again.stderr


@pytest.mark.parametrize("revision", ["main", "a" * 39, "A" * 40])
def test_what_can_move_is_refused(revision):
    with pytest.raises(ConfigError, match="40-digit commit"):
        HubQuestions("maker/pro", revision)
