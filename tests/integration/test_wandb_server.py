"""The unmodified ``wandb`` and a fit against the loopback server: everything arrives, and a sync gives the same."""

import json
import subprocess
import sys
import threading

import pytest
import yaml
from offline_runs import OfflineRun, chunks, offline_run
from tiny_runs import history
from wandb_server.fixtures import wandb_command
from wandb_server.server import KEY, WandbServer

ONLINE_PROGRAM = """
import pathlib, wandb
with wandb.init(project="p", id="first", group="g", job_type="fit", tags=["t"], config={"a": {"b": 1}}) as run:
    for step in range(3):
        run.log({"loss": 2.0 - step})
    run.log({"table": wandb.Table(columns=["a"], data=[[1], [2]])})
    pathlib.Path("head.bin").write_bytes(b"weights")
    head = wandb.Artifact("head", "router", metadata={"scope": "answer"})
    head.add_file("head.bin")
    run.log_artifact(head, aliases=["best", "last"])
with wandb.init(project="p", id="first", resume="allow") as run:
    run.log({"loss": -1.0})
"""
SWEEP_PROGRAM = """
import sys, time, wandb
with wandb.init() as run:
    for step in range(3000):
        run.log({"loss": run.config["x"] / (step + 1)})
        if run.config["x"] < 2:
            break
        time.sleep(0.2)
"""


def run_python(program, server, folder):
    environment = server.environment(folder)
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=folder, timeout=200, check=True)


def test_an_online_run_arrives_whole_and_goes_on_under_its_id(wandb_server, tmp_path):
    run_python(ONLINE_PROGRAM, wandb_server, tmp_path)
    (run,) = wandb_server.store.runs.values()
    assert run.config["a"] == {"b": 1}
    assert {key: run.fields[key] for key in ("groupName", "jobType", "tags")} == {
        "groupName": "g",
        "jobType": "fit",
        "tags": ["t"],
    }
    assert [row["loss"] for row in run.history if "loss" in row] == [2, 1, 0, -1]
    assert [row["_step"] for row in run.history] == [0, 1, 2, 3, 4]
    assert run.summary["loss"] == -1
    assert (run.complete, run.exit_code) == (True, 0)
    assert {"config.yaml", "wandb-summary.json"} <= run.files.keys()
    artifacts = {one.name: one for one in wandb_server.store.artifacts.values()}
    head = artifacts["head"]
    assert (head.type, head.metadata, head.committed) == ("router", {"scope": "answer"}, True)
    assert {"best", "last"} <= set(head.aliases)
    assert head.files["head.bin"] == b"weights"
    assert head.manifest["head.bin"]["size"] == len(b"weights")
    assert json.loads(artifacts["run-first-table"].files["table.table.json"])["data"] == [[1], [2]]


@pytest.mark.slow
def test_an_agent_works_off_a_grid_and_stops_what_it_is_told_to(wandb_server, tmp_path):
    (tmp_path / "train.py").write_text(SWEEP_PROGRAM)
    config = {"program": "train.py", "method": "grid", "parameters": {"x": {"values": [1, 2]}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    environment = wandb_server.environment(tmp_path)
    said = wandb_command(environment, "sweep", "--project", "p", "sweep.yaml")
    (sweep,) = wandb_server.store.sweeps.values()
    assert f"tester/p/{sweep.id}" in said

    def stop_the_second():
        runs = wandb_server.store.runs
        while not wandb_server.gone.wait(0.1):
            for run in list(runs.values()):
                run.stop = run.config.get("x") == 2 and bool(run.history)

    threading.Thread(target=stop_the_second, daemon=True).start()
    wandb_command(environment, "agent", f"tester/p/{sweep.id}")
    first, second = wandb_server.store.runs.values()
    assert [first.config["x"], second.config["x"]] == [1, 2]
    assert {first.sweep, second.sweep} == {sweep.id}
    assert list(sweep.given.values()) == [{"x": 1}, {"x": 2}]
    assert (first.complete, first.exit_code) == (True, 0)
    assert 1 <= len(second.history) < 300  # a plain program dies of the signal
    assert sweep.state == "FINISHED"


def test_a_random_sweep_draws_within_its_bounds_and_nothing_is_planned_for_a_method_of_others():
    from wandb_server.sweeps import points

    parameters = {
        "lr": {"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"},
        "layers": {"min": 1, "max": 3, "distribution": "int_uniform"},
        "head": {"values": ["a", "b"]},
        "fixed": {"value": 7},
    }
    planned = points({"method": "random", "parameters": parameters})
    drawn = [next(planned) for _ in range(200)]
    assert all(1e-4 <= one["lr"] <= 1e-1 and one["fixed"] == 7 for one in drawn)
    assert {one["layers"] for one in drawn} == {1, 2, 3}
    assert {one["head"] for one in drawn} == {"a", "b"}
    assert 0.3 < sum(one["lr"] < 10**-2.5 for one in drawn) / 200 < 0.7  # half of them below the geometric mean
    assert points({"method": "bayes", "parameters": parameters}) == []


@pytest.fixture(scope="module")
def fits(tmp_path_factory, tiny_fit, offline_fit):
    """Give a fit made online, and one made offline and sent by ``wandb sync``: as the server has it, and on disk."""
    folder = tmp_path_factory.mktemp("online")
    with WandbServer() as server:
        found = {"online": tiny_fit(folder / "runs", server.environment(folder))[0], "offline": offline_fit}
    with WandbServer() as later:
        wandb_command(later.environment(offline_fit.parent.parent), "sync", str(offline_run(offline_fit).file.parent))
    assert server.store.unknown == later.store.unknown == []
    runs = [next(iter(one.store.runs.values())) for one in (server, later)]
    return {way: (run, folder) for run, (way, folder) in zip(runs, found.items(), strict=True)}


def of_the_moment(key):
    """Tell keys that no two runs share: clocks, and names that are drawn."""
    return key in ("_timestamp", "_runtime", "_wandb") or "second" in key or "time" in key


def comparable(value):
    if isinstance(value, dict):
        return {
            key: comparable(one)
            for key, one in value.items()
            if not of_the_moment(key) and "artifact_path" not in key  # a drawn id
        }
    return "NaN" if value != value else value  # as JSON has it


@pytest.mark.slow
def test_a_fit_arrives_online(fits):
    run, folder = fits["online"]
    assert (run.complete, run.exit_code) == (True, 0)
    assert run.project == "moe_tune"
    assert run.config["model.scope"] == "answer"
    assert run.config["data.limit_train"] == 16
    lines = history(folder)
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "time") and value is not None:
                assert any(row.get(key) == pytest.approx(value, rel=1e-6) for row in run.history), key
    assert run.summary["validation/accuracy"] == pytest.approx(lines[-1]["validation/accuracy"])
    assert any(name.startswith("media/table/validation/") for name in run.files)
    pictures = [content for name, content in run.files.items() if name.startswith("media/images/validation/")]
    assert pictures
    assert all(content.startswith(b"\x89PNG") for content in pictures)
    assert {"config.yaml", "wandb-summary.json"} <= run.files.keys()


@pytest.mark.slow
def test_an_offline_fit_that_is_sent_later_gives_the_content_of_an_online_one(fits):
    (online, _), (synced, _) = fits["online"], fits["offline"]
    assert {**online.config, "runs_root": ""} == {**synced.config, "runs_root": ""}
    assert comparable(online.summary) == comparable(synced.summary)
    assert [comparable(row) for row in online.history] == [comparable(row) for row in synced.history]
    media = [{name for name in run.files if name.startswith("media/")} for run in (online, synced)]
    assert media[0] == media[1]


@pytest.mark.slow
def test_what_is_on_disk_is_what_is_sent(fits):
    synced, folder = fits["offline"]
    offline = offline_run(folder)
    assert offline.run.run_id == synced.id
    assert offline.config == synced.config
    assert [comparable(row) for row in offline.history] == [comparable(row) for row in synced.history]
    assert offline.media.items() <= synced.files.items()
    assert offline.exit_code == 0
    table = offline.tables["validation/experts"][0]
    assert "accuracy" in table["columns"]
    assert len(offline.images["validation/usage_figure"][0]) > 1000
    assert {one.type for one in offline.artifacts} >= {"run_table"}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["online", "offline"])
def test_the_key_is_in_no_file_of_the_run(fits, way):
    _, folder = fits[way]
    holders = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == []


def test_a_torn_file_gives_the_rows_before_the_tear_and_a_flipped_byte_is_noticed(tmp_path):
    program = """
import wandb
with wandb.init(mode="offline", project="p", dir=".", config={"a": 1}) as run:
    run.log({"long": "x" * 100_000})
    for step in range(20):
        run.log({"n": {"y": step}, "nan": float("nan"), "none": None, "x": step / 2})
"""
    with WandbServer() as server:
        run_python(program, server, tmp_path)
    whole = offline_run(tmp_path)
    assert whole.config == {"a": 1}
    assert len(whole.history) == 21
    assert whole.history[-1]["n"] == {"y": 19}
    assert whole.history[-1]["x"] == 9.5
    assert whole.history[-1]["none"] is None
    assert whole.history[-1]["nan"] != whole.history[-1]["nan"]
    content = whole.file.read_bytes()
    torn = tmp_path / "torn.wandb"
    torn.write_bytes(content[: len(content) - 900])
    assert 1 <= len(OfflineRun(torn).history) < 21
    flipped = bytearray(content)
    flipped[50_000] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(chunks(bytes(flipped)))
