"""Text of the Hub, by id and pinned commit, from a Hub on the loopback, and again without it."""

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
from moe_tune.data.hub_text import HubText

COMMIT, MOVED_ON = "b" * 40, "d" * 40
READ = """
import json, sys
from moe_tune.base.errors import MoeTuneError
from moe_tune.data.hub_text import HubText
said = []
for options in json.loads(sys.argv[1]):
    try:
        source = HubText(**options)
        said.append([[row.values for row in source.documents()], source.revision()])
    except MoeTuneError as fault:
        said.append([fault.exit_code, str(fault)])
print(json.dumps(said))
"""


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


TURNS = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
FILES = {
    "data/train-00000-of-00001.parquet": parquet([{"text": "One page."}, {"text": "Another."}]),
    "data/test-00000-of-00001.parquet": parquet([{"text": "Held out."}]),
    "chat/train.jsonl": (json.dumps({"messages": TURNS}) + "\n").encode(),
    "README.md": b"# Pages\n",
}
PAGES = {"path": "maker/pages", "revision": COMMIT}
ASKED = [
    {**PAGES, "config": "data", "files": "train-*.parquet"},
    {**PAGES, "config": "chat"},
    {**PAGES, "config": "none"},
]


def test_text_of_the_hub_is_read_at_its_commit_and_again_without_it(tmp_path):
    moved = {"data/train-00000-of-00001.parquet": parquet([{"text": "Newer."}])}
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept.pop("HF_HUB_OFFLINE", None)
    with HubServer({"datasets/maker/pages": Repository({COMMIT: FILES, MOVED_ON: moved}, {"main": MOVED_ON})}) as hub:
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", READ, json.dumps(ASKED)]
        first = subprocess.run(command, env=kept | places, capture_output=True, text=True)
        assert first.returncode == 0, first.stderr
        assert hub.unknown == []
    found = json.loads(first.stdout.splitlines()[-1])
    assert found[0] == [
        [{"text": "One page."}, {"text": "Another."}],
        f"maker/pages/data@{COMMIT} train-*.parquet",
    ]
    assert found[1] == [[{"messages": TURNS}], f"maker/pages/chat@{COMMIT}"]
    assert found[2][0] == 3
    assert "expected the folder 'none'" in found[2][1]
    again = subprocess.run(
        [*command[:3], json.dumps(ASKED[:2])],
        env=kept | places | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert json.loads(again.stdout.splitlines()[-1]) == found[:2], again.stderr


@pytest.mark.parametrize("revision", ["main", "b" * 39])
def test_what_can_move_is_refused(revision):
    with pytest.raises(ConfigError, match="40-digit commit"):
        HubText("maker/pages", revision)
