"""An offline W&B run holds what the metrics file holds, the tables and the four figures; and no secret."""

import json

import pytest
from offline_runs import offline_run

TOKEN = "hf_" + "Nq7" * 11
TAGS = ["https://user:hunter2@example.org", TOKEN]


@pytest.fixture(scope="module")
def offline(tmp_path_factory, fit):
    patch = pytest.MonkeyPatch()
    patch.setenv("WANDB_MODE", "offline")
    tags = ("--trainer.logger.init_args.tags", json.dumps(TAGS))
    run = fit(tmp_path_factory.mktemp("offline"), "--config", "configs/logger/wandb.yaml", *tags)
    patch.undo()
    return run


def test_the_offline_run_holds_the_history_tables_and_images(offline):
    summary = offline_run(offline).summary
    for key in ("accuracy", "entropy_all", "entropy_topk", "activated_experts", "never_activated_share"):
        assert f"validation/{key}" in summary
        assert f"test/{key}" in summary
    media = offline.glob("wandb/offline-run-*/files/media/*/*/*")
    seen = {(file.parent.name, file.name.partition("_")[0]) for file in media}
    for split in ("validation", "test"):
        for name in ("experts", "layers", "usage", "accuracy", "entropy", "scatter"):
            assert f"{split}/{name}" in summary or f"{split}/{name}_figure" in summary
            assert (split, name) in seen
    assert summary["base_validation/accuracy"] >= 0
    (line,) = [line for line in map(json.loads, (offline / "metrics.jsonl").open()) if "test/accuracy" in line]
    assert summary["test/accuracy"] == pytest.approx(line["test/accuracy"])


def test_the_configuration_is_there_flat(offline):
    config = offline_run(offline).config
    assert (config["model.scope"], config["optimizer.init_args.lr"]) == ("answer", 0.003)


def test_no_secret_is_written_where_the_tags_are(offline):
    contents = {file: file.read_bytes() for file in offline.rglob("*") if file.is_file()}
    # The tags must have come through, or the absence of their secrets says nothing.
    holders = {file.name for file, content in contents.items() if b"[removed]@example.org" in content}
    assert "config.yaml" in holders
    assert any(name.endswith(".wandb") for name in holders)
    for file, content in contents.items():
        assert b"hunter2" not in content, file
        assert TOKEN.encode() not in content, file
