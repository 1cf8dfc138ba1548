"""An offline W&B run holds what the metrics file holds, the expert table and the heat map; and no secret."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def offline(tmp_path_factory, fit):
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("HF_TOKEN", "hf_not_a_real_token_0123456789")
    run = fit(tmp_path_factory.mktemp("offline"), "--config", "configs/logger/wandb.yaml")
    patch.undo()
    return run


def records(run):
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_the_offline_run_holds_the_history_table_and_image(offline):
    seen = records(offline)
    summary = seen["summary"]
    flat = json.dumps(summary)
    for key in ("accuracy", "entropy_all", "entropy_topk", "activated_experts", "never_activated_share"):
        assert f"validation/{key}" in summary
        assert f"test/{key}" in summary
    assert "test/experts" in flat
    assert "test/usage" in flat
    assert list(offline.glob("wandb/offline-run-*/files/media/table/test/*.json"))
    assert list(offline.glob("wandb/offline-run-*/files/media/images/test/*.png"))
    (line,) = [line for line in map(json.loads, (offline / "metrics.jsonl").open()) if "test/accuracy" in line]
    assert summary["test/accuracy"] == pytest.approx(line["test/accuracy"])


def test_the_configuration_is_there_flat(offline):
    config = records(offline)["config"]
    assert config["model.scope"] == "answer"
    assert config["optimizer.init_args.lr"] == 0.003


def test_no_secret_is_written(offline):
    for file in offline.rglob("*"):
        if file.is_file():
            assert b"hf_not_a_real_token" not in file.read_bytes(), file
