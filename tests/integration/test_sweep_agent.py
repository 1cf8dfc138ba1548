"""A fit under an agent: with the environment alone, and started by the unmodified agent against the test server."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from offline_runs import offline_run
from waiting import until
from wandb_server.fixtures import TINY_FIT, wandb_command
from wandb_server.store import Run

from moe_tune.runs.best_epoch import validation_summary
from moe_tune.studies.sweep_search import library

ROOT = Path(__file__).parents[2]
FIRST = {"monitor": "epoch", "mode": "min", "filename": "best", "enable_version_counter": False}
FIRST_IS_BEST = json.dumps([{"class_path": "ModelCheckpoint", "init_args": FIRST}])
PARAMETERS = {"optimizer.lr": 0.01, "model.losses.z.weight": 0.002, "seed_everything": 0}


@pytest.fixture
def agent(tmp_path):
    """Give what an agent puts into the environment of an offline run."""
    file = tmp_path / "wandb" / "sweep-s1" / "config-r1.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({key: {"value": value} for key, value in PARAMETERS.items()}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_PROJECT": "p"}
    quiet = {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(tmp_path)}
    return kept | own | quiet | {"WANDB_SWEEP_PARAM_PATH": str(file)}


def fit(environment, root, *more):
    command = [sys.executable, "-m", "moe_tune", "fit", *TINY_FIT, "--config", "configs/losses/balance_z.yaml"]
    command += ["--runs_root", str(root), "--config", json.dumps(PARAMETERS), *more]
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-2, text=True)


def manifest(root):
    (file,) = root.glob("*/manifest.json")
    return file.parent, json.loads(file.read_text())


@pytest.mark.slow
def test_a_run_has_its_id_group_and_locked_parameters_and_logs_the_parsed_configuration(agent, tmp_path):
    process = fit(agent, tmp_path / "runs", "--trainer.max_epochs=2", f"--trainer.callbacks={FIRST_IS_BEST}")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    folder, content = manifest(tmp_path / "runs")
    assert folder.name == "nano-RetunedHead-s0-r1"
    assert content["status"] == "finished"
    run = offline_run(folder)
    assert (run.run.run_id, run.run.sweep_id, run.run.run_group) == ("r1", "s1", "s1")
    assert run.config["optimizer.lr"] == run.config["optimizer.init_args.lr"] == 0.01
    assert run.config["model.losses.z.weight"] == run.config["model.losses.z.init_args.weight"] == 0.002
    assert run.summary["stopped_early"] is False
    assert run.exit_code == 0
    # By the first epoch, whose checkpoint counts as the best, both this W&B run and a sweep without a server choose.
    first, last = (row for row in run.history if isinstance(row.get("validation/accuracy"), int | float))
    keys = [key for key in first if key.startswith("validation/") and not math.isnan(first[key])]
    assert first["validation/loss"] != last["validation/loss"]
    assert {key: run.summary[key] for key in keys} == {key: first[key] for key in keys}
    assert {key: run.summary[f"last/{key}"] for key in keys} == {key: last[key] for key in keys}
    kept = validation_summary(folder)
    assert {key: kept[key] for key in keys} == pytest.approx({key: first[key] for key in keys})


@pytest.mark.slow
def test_a_run_that_is_stopped_says_so_exits_0_and_goes_on_under_its_id(agent, tmp_path):
    process = fit(agent, tmp_path / "runs", "--trainer.max_epochs", "400")
    written = "*/checkpoints/last.ckpt/manifest.json"
    until(lambda: list((tmp_path / "runs").glob(written)) or process.poll() is not None, 300)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said[-3000:]
    folder, content = manifest(tmp_path / "runs")
    assert content["status"] == "stopped_early"
    assert content["sweep"] == {"id": "s1", "run": "r1", "stopped_early": True}
    run = offline_run(folder)
    assert run.summary["stopped_early"] is True
    assert run.exit_code == 0
    done = max(json.loads(line)["step"] for line in (folder / "metrics.jsonl").open())

    again = fit(agent | {"WANDB_MODE": "disabled"}, tmp_path / "runs", "--trainer.max_steps", str(done + 8))
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said[-3000:]
    assert re.search(r"resuming .*-r1 from", said)
    _, content = manifest(tmp_path / "runs")
    assert (content["status"], content["sweep"]["stopped_early"]) == ("finished", False)


def begun(server, folder, name, tiny):
    """Make a shipped sweep with smaller fits, and paths that hold in the agent's own folder; all else as shipped."""
    shipped = yaml.safe_load((ROOT / f"configs/sweep/{name}.yaml").read_text())
    words = [*shipped["command"][:-2], *tiny, f"--runs_root={folder}/runs", *shipped["command"][-2:]]
    command = [str(ROOT / word) if str(word).startswith("configs/") else word for word in words]
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(shipped | {"command": command}))
    environment = server.environment(folder) | {"PYTHONPATH": str(ROOT)}
    wandb_command(environment, "sweep", "--project", "p", str(file))
    (sweep,) = server.store.sweeps.values()
    return environment, sweep


@pytest.mark.slow
def test_the_unmodified_agent_runs_a_shipped_sweep(wandb_server, tmp_path):
    tiny = ["--config", "configs/debug/tiny.yaml", "--trainer.enable_progress_bar=false"]
    environment, made = begun(wandb_server, tmp_path, "temperature", tiny)
    wandb_command(environment, "agent", "--count", "4", f"{made.entity}/p/{made.id}", timeout=900)
    runs = list(wandb_server.store.runs.values())
    assert len(runs) == 4
    for run in runs:
        assert (run.complete, run.exit_code, run.sweep) == (True, 0, made.id)
        assert run.config["model.head.init_args.tau"] == made.given[run.id]["model.head.tau"]
        assert run.config["model.head.init_args.mass"] == made.given[run.id]["model.head.mass"]
        assert any("validation/accuracy" in row for row in run.history)
        assert run.summary["stopped_early"] is False
        assert run.summary["last/validation/accuracy"] == run.summary["validation/accuracy"]
        assert (tmp_path / "runs" / f"nano-TemperatureHead-s0-{run.id}").is_dir()
    assert len({json.dumps(one, sort_keys=True) for one in made.given.values()}) == 4


def hyperband(server, sweep):
    """Stop the runs of a sweep that W&B's own hyperband would, as the server does between an agent's heartbeats."""
    sweeps = library()
    while not server.gone.wait(0.2):
        with server.store.lock:
            runs = [run for run in server.store.runs.values() if run.sweep == sweep.id]
            seen = [
                sweeps.SweepRun(
                    name=run.id,
                    state="finished" if run.complete else "running",
                    sampledHistory=[row for row in run.history if sweep.config["metric"]["name"] in row],
                )
                for run in runs
            ]
            for stopped in sweeps.stop_runs(sweeps.SweepConfig(sweep.config), seen):
                server.store.runs[stopped.name].stop = True


@pytest.mark.slow
def test_hyperband_ends_one_run_and_the_unmodified_agent_goes_on_to_the_next(wandb_server, tmp_path):
    environment, sweep = begun(wandb_server, tmp_path, "loss_weights", TINY_FIT[2:])
    assert sweep.config["early_terminate"]["type"] == "hyperband"
    point = {"model.losses.balance.weight": 0.01, "model.losses.z.weight": 0.001, "optimizer.lr": 0.003}
    sweep.planned += [point | {"trainer.max_epochs": 400}, point | {"trainer.max_epochs": 1}]
    # What others reached earlier: every question right in every epoch, which no run of a few seconds comes near.
    for name in ("earlier0", "earlier1"):
        rows = [json.dumps({"validation/accuracy": 1.0})] * 64
        run = Run(name, sweep.entity, "p", sweep=sweep.id, exit_code=0, complete=True)
        run.add("wandb-history.jsonl", 0, rows)
        wandb_server.store.runs[name] = run
    threading.Thread(target=hyperband, args=(wandb_server, sweep), daemon=True).start()
    wandb_command(environment, "agent", f"{sweep.entity}/p/{sweep.id}", timeout=400)
    stopped, whole = [wandb_server.store.runs[name] for name in sweep.given]
    for run, early, status in ((stopped, True, "stopped_early"), (whole, False, "finished")):
        assert (run.complete, run.exit_code, run.stop) == (True, 0, early)
        assert run.summary["stopped_early"] is early
        (file,) = (tmp_path / "runs").glob(f"*-{run.id}/manifest.json")
        assert json.loads(file.read_text())["status"] == status
        kept = validation_summary(file.parent)
        keys = ("validation/accuracy", "validation/loss", "last/validation/accuracy", "last/validation/loss")
        assert [run.summary[key] for key in keys] == pytest.approx([kept[key] for key in keys])
    epochs = [row for row in stopped.history if "validation/accuracy" in row]
    assert 2 <= len(epochs) < 400
    # Only what ran to its end leaves a head.
    assert {one.run for one in wandb_server.store.artifacts.values() if one.type == "router-head"} == {whole.id}
