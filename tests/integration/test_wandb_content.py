"""What a fit and a comparison leave in W&B: read back from an offline run, from an online one, and from a sent one."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import wandb
from offline_runs import offline_run
from tiny_runs import history
from waiting import until
from wandb_server.fixtures import wandb_command
from wandb_server.server import KEY, WandbServer

from moe_tune.cli.compare import main as compare
from moe_tune.runs.best_epoch import validation_at
from moe_tune.runs.directory import RunDirectory
from moe_tune.tracking.wandb_content import arm_of, improved, tags_of
from moe_tune.tracking.wandb_head import kept_checkpoints

EPOCHS = 2
WORDS = [
    *("--config", "configs/losses/balance_z.yaml", "--trainer.max_epochs", str(EPOCHS)),
    *("--trainer.logger.init_args.tags", '["mine"]'),
]
# As for a user; the server's environment switches both off, and ten seconds between samples are longer than these fits.
SAMPLED = {
    "WANDB_X_DISABLE_STATS": "false",
    "WANDB_X_DISABLE_MACHINE_INFO": "false",
    "WANDB_X_STATS_SAMPLING_INTERVAL": "1",
}
FILES = {"router.safetensors", "state.json", "state.safetensors", "config.yaml", "manifest.json"}


@pytest.fixture(scope="module")
def offline(tmp_path_factory, tiny_fit):
    """Give the directory of a fit of two epochs that W&B logged offline; nobody may call the server."""
    folder = tmp_path_factory.mktemp("content_offline")
    with WandbServer() as server:
        run, _ = tiny_fit(folder / "runs", server.environment(folder, WANDB_MODE="offline", **SAMPLED), *WORDS)
    assert not server.store.calls
    return run


@pytest.fixture(scope="module")
def online(tmp_path_factory, tiny_fit):
    """Give the server of the same fit made online, and its directory."""
    folder = tmp_path_factory.mktemp("content_online")
    with WandbServer() as server:
        run, _ = tiny_fit(folder / "runs", server.environment(folder, **SAMPLED), *WORDS)
    assert server.store.unknown == []
    return server.store, run


@pytest.fixture(scope="module")
def sent(offline):
    """Give the server that ``wandb sync`` sent the offline run to."""
    with WandbServer() as server:
        wandb_command(server.environment(offline.parent.parent), "sync", str(offline_run(offline).file.parent))
    assert server.store.unknown == []
    return server.store


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, tiny_fit):
    """Give the directory of the pretrained router's evaluation, logged offline."""
    folder = tmp_path_factory.mktemp("content_untouched")
    with WandbServer() as server:
        environment = server.environment(folder, WANDB_MODE="offline")
        words = ("--config", "configs/head/identity.yaml", "--config", "configs/losses/none.yaml")
        return tiny_fit(folder / "runs", environment, *words)[0]


def heads(store):
    return sorted(
        (one for one in store.artifacts.values() if one.type == "router-head"), key=lambda one: sorted(one.aliases)
    )


def numbers(history, key):
    """Return a key's numbers in the order of logging; an image may have the same key."""
    return [row[key] for row in history if isinstance(row.get(key), int | float)]


def comparable(value):
    """Return nested values without what no two runs share: clocks, and names that are drawn."""
    if isinstance(value, dict):
        drawn = ("_timestamp", "_runtime", "_wandb", "artifact_path", "_latest_artifact_path")
        kept = {
            key: one for key, one in value.items() if key not in drawn and "second" not in key and "time" not in key
        }
        return {key: comparable(one) for key, one in kept.items()}
    return "NaN" if value != value else value  # as JSON has it


@pytest.mark.slow
def test_an_offline_run_holds_configuration_history_tables_and_images(offline):
    run = offline_run(offline)
    assert run.config["model.scope"] == "answer"
    assert run.config["model.losses.z.class_path"].endswith("ZLoss")
    for name in ("entropy_all", "entropy_topk", "activated_experts", "never_activated_share", "accuracy"):
        assert len(numbers(run.history, f"validation/{name}")) == EPOCHS, name
    experts, layers = run.tables["validation/experts"], run.tables["validation/layers"]
    assert len(experts) == len(layers) == EPOCHS
    assert {"layer", "expert", "count", "accuracy", "accuracy_low", "accuracy_high"} <= set(experts[-1]["columns"])
    kept = pd.read_parquet(offline / "routing" / "validation.parquet")
    used = kept[(kept["scope"] == "answer") & (kept["count"] > 0)]
    table = pd.DataFrame(experts[-1]["data"], columns=experts[-1]["columns"])
    assert table["count"].tolist() == used["count"].tolist()
    assert {"activated", "never_share"} <= set(layers[-1]["columns"])
    for name in ("usage", "accuracy", "entropy", "scatter"):
        images = run.images[f"validation/{name}_figure"]
        assert len(images) == EPOCHS
        assert images[-1] == (offline / "figures" / f"validation_{name}.png").read_bytes()


@pytest.mark.slow
def test_group_job_type_tags_and_best_values_are_filled_in(offline):
    run = offline_run(offline)
    assert (run.run.run_group, run.run.job_type) == ("nano-RetunedHead", "fit")
    assert list(run.run.tags) == ["mine", "RetunedHead", "LoadBalanceLoss", "ZLoss", "scope answer", "nano"]
    for key, name, best in (("accuracy", "accuracy_max", max), ("loss", "loss_min", min)):
        rows = numbers(run.history, f"validation/{key}")
        assert run.summary[f"last/validation/{key}"] == pytest.approx(rows[-1])
        assert run.summary[f"validation/{name}"] == pytest.approx(best(rows))
    assert set(numbers(run.history, "lr-AdamW")) == {0.003}
    gain, low, high = (run.summary[f"validation/accuracy_gain{end}"] for end in ("", "_low", "_high"))
    assert low <= gain <= high
    assert {"validation/accuracy_and_pretrained", "validation/loss_and_pretrained"} <= {
        key.removesuffix("_table") for row in run.history for key in row
    }
    assert ("*", "trainer/global_step") in [(one.glob_name, one.step_metric) for one in run.metrics]


@pytest.mark.slow
def test_the_head_is_an_artifact_of_its_files_and_says_what_it_was_trained_from(offline):
    found = offline_run(offline).heads
    assert sorted(alias for one in found for alias in one["aliases"] - {"latest"}) == ["best", "last"]
    manifest = json.loads((offline / "manifest.json").read_text())
    for one in found:
        assert one["name"] == offline.name
        checkpoint = offline / "checkpoints" / one["metadata"]["checkpoint"]
        assert one["files"] == {name: (checkpoint / name).read_bytes() for name in FILES}
        assert sum(map(len, one["files"].values())) < 300_000
        about = one["metadata"]
        assert about["base_model"] == manifest["base"]
        assert about["data"]["source"]["revision"] == "nano-quiz-1-seed0"
        assert about["data"]["splits"]["validation"] == manifest["data"]["splits"]["validation"]["sha256"]
    best = next(one for one in found if "best" in one["aliases"])
    assert best["metadata"]["validation_accuracy"] == pytest.approx(
        offline_run(offline).summary["validation/accuracy_max"]
    )


@pytest.mark.slow
def test_an_online_run_has_the_same_and_no_code_but_system_metrics(online, offline):
    store, folder = online
    (run,) = store.runs.values()
    assert (run.complete, run.exit_code) == (True, 0)
    assert (run.fields["groupName"], run.fields["jobType"]) == ("nano-RetunedHead", "fit")
    assert run.fields["tags"] == list(offline_run(offline).run.tags)
    assert all(one.committed for one in store.artifacts.values())
    there = offline_run(offline).heads
    # Which epoch was the best and what was learnt are the same; clocks and paths in the two configurations are not.
    assert [{*one.aliases} - {"latest"} for one in heads(store)] == sorted(
        (one["aliases"] - {"latest"} for one in there), key=sorted
    )
    for one in heads(store):
        checkpoint = folder / "checkpoints" / one.metadata["checkpoint"]
        assert {name: one.files[name] for name in FILES} == {name: (checkpoint / name).read_bytes() for name in FILES}
    assert not [name for name in run.files if name.startswith("code/")]
    assert {one.type for one in store.artifacts.values()} == {"run_table", "router-head"}
    assert run.streams["wandb-events.jsonl"]
    assert offline_run(offline).stats


@pytest.mark.slow
def test_a_sent_offline_run_gives_the_artifact_and_the_summary_of_an_online_one(online, offline, sent):
    (synced,), (made,) = sent.runs.values(), online[0].runs.values()
    local = sorted(offline_run(offline).heads, key=lambda one: sorted(one["aliases"]))
    assert len(heads(sent)) == len(local)
    for arrived, kept in zip(heads(sent), local, strict=True):
        assert (arrived.name, arrived.committed, {*arrived.aliases}) == (kept["name"], True, kept["aliases"])
        assert arrived.metadata == kept["metadata"]
        assert {name: arrived.files[name] for name in FILES} == kept["files"]
    assert [one.metadata for one in heads(sent)] == [one.metadata for one in heads(online[0])]
    assert {**synced.config, "runs_root": ""} == {**made.config, "runs_root": ""}
    assert comparable(synced.summary) == comparable(made.summary)
    assert [comparable(row) for row in synced.history] == [comparable(row) for row in made.history]
    media = [{name for name in run.files if name.startswith("media/")} for run in (synced, made)]
    assert media[0] == media[1]
    assert {"validation/accuracy_max", "validation/loss_min"} <= synced.summary.keys()
    told = ("groupName", "jobType", "tags")
    assert [synced.fields[key] for key in told] == [made.fields[key] for key in told]


@pytest.mark.slow
def test_every_number_of_the_metrics_file_and_every_picture_arrives(online):
    (run,) = online[0].runs.values()
    for line in history(online[1]):
        for key, value in line.items():
            if key not in ("step", "time") and value is not None:
                assert any(row.get(key) == pytest.approx(value, rel=1e-6) for row in run.history), key
    assert any(name.startswith("media/table/validation/") for name in run.files)
    pictures = [content for name, content in run.files.items() if name.startswith("media/images/validation/")]
    assert pictures
    assert all(content.startswith(b"\x89PNG") for content in pictures)


@pytest.mark.slow
def test_what_is_on_disk_is_what_is_sent(offline, sent):
    kept, (synced,) = offline_run(offline), sent.runs.values()
    assert (kept.run.run_id, kept.config, kept.exit_code) == (synced.id, synced.config, 0)
    assert [comparable(row) for row in kept.history] == [comparable(row) for row in synced.history]
    assert kept.media.items() <= synced.files.items()


@pytest.mark.slow
def test_the_key_is_in_nothing_that_was_sent_and_in_no_file_of_a_run(online, offline, sent):
    stores = (online[0], sent)
    owners = [one for store in stores for one in (*store.runs.values(), *store.artifacts.values())]
    contents = [content for one in owners for content in one.files.values()]
    contents += [file.read_bytes() for run in (online[1], offline) for file in run.rglob("*") if file.is_file()]
    assert contents
    assert not [content for content in contents if KEY.encode() in content]


@pytest.mark.slow
def test_a_head_that_trains_nothing_is_best_and_last_at_once(untouched):
    (only,) = offline_run(untouched).heads
    assert only["aliases"] >= {"best", "last"}
    assert only["metadata"]["checkpoint"] == "last.ckpt"
    assert only["metadata"]["validation_accuracy"] == pytest.approx(
        offline_run(untouched).summary["validation/accuracy"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, 500])
def test_a_comparison_is_sent_only_if_asked_for_and_a_fault_is_one_warning(fault, offline, untouched, tmp_path):
    with WandbServer(fault=fault) as server:
        words = ["compare", str(untouched), str(offline), "--out", str(tmp_path / "c")]
        command = [
            sys.executable,
            "-m",
            "moe_tune",
            *words,
            "--wandb",
            "--wandb_project",
            "study",
            "--wandb_group",
            "heads",
        ]
        done = subprocess.run(
            command, env=server.environment(tmp_path), capture_output=True, text=True, timeout=200, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("W&B") == (0 if fault is None else 1)
    frame = pd.read_csv(tmp_path / "c" / "table.csv")
    page = (tmp_path / "c" / "report.html").read_bytes()
    if fault is not None:
        run = offline_run(tmp_path / "c")
        assert run.run.job_type == "compare"
        assert page in run.media.values()
        return
    assert server.store.unknown == []
    (run,) = server.store.runs.values()
    assert (run.complete, run.exit_code, run.project) == (True, 0, "study")
    assert (run.fields["jobType"], run.fields["groupName"]) == ("compare", "heads")
    assert run.config["baseline"] == "IdentityHead"
    (table,) = [json.loads(one.files["comparison.table.json"]) for one in server.store.artifacts.values()]
    assert table["columns"] == list(frame)
    assert [row[:2] for row in table["data"]] == frame.iloc[:, :2].to_numpy().tolist()
    assert page in run.files.values()


@pytest.mark.slow
def test_a_comparison_stays_here_unless_asked_for(offline, untouched, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert compare([str(untouched), str(offline), "--out", str(tmp_path)], {}) == 0
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_two_checkpoints_of_other_tensors_are_two_versions(offline):
    directory = RunDirectory(offline)
    last = offline / "checkpoints" / "last.ckpt"
    best = offline / "checkpoints" / "best.ckpt"
    same = (best / "router.safetensors").read_bytes() == (last / "router.safetensors").read_bytes()
    expected = {last: ["best", "last"]} if same else {best: ["best"], last: ["last"]}
    assert kept_checkpoints(directory) == expected
    rows = [json.loads(line) for line in (offline / "metrics.jsonl").open()]
    steps = [row["step"] for row in rows if "validation/accuracy" in row]
    for step, row in zip(steps, [row for row in rows if "validation/accuracy" in row], strict=True):
        assert validation_at(offline, (step + 1, None))["validation/accuracy"] == row["validation/accuracy"]


def test_a_head_that_wandb_does_not_take_is_one_warning(monkeypatch, tmp_path, caplog):
    from moe_tune.tracking import wandb_logger

    def refuse(run, folder):
        raise wandb.errors.CommError("no")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(wandb_logger, "send_head", refuse)
    logger = wandb_logger.RouterWandbLogger(save_dir=str(tmp_path))
    logger.log_metrics({"validation/accuracy": 0.5}, step=0)
    wandb_logger.close_wandb_run(failed=False, fitted=tmp_path)
    assert [record.message for record in caplog.records if "the head" in record.message]
    assert wandb.run is None
    until(lambda: offline_run(tmp_path).exit_code == 0)  # the service writes it a moment later


def test_words_of_a_run():
    config = {"model.head.class_path": "moe_tune.heads.retuned.RetunedHead", "model.base.path": "a/" + "b" * 99}
    losses = {"model.losses.a.class_path": "x.ZLoss", "model.losses.b.class_path": "y.ZLoss"}
    assert tags_of(config | losses) == ("RetunedHead", "ZLoss", "b" * 64)
    assert arm_of("warm-s1-mix-RetunedHead-s12-0123abcd-last-test") == "warm-s1-mix-RetunedHead"
    assert improved({"validation/accuracy": float("nan")}, {}) == {}
    assert improved({"validation/loss": 2.0}, {"validation/loss_min": 1.0}) == {"validation/loss_min": 1.0}
