"""A fit that a signal ends within an epoch, and the same command again: of two processes, and one that W&B logs."""

import os
import signal
import subprocess
import sys

import pytest
from offline_runs import offline_parts
from tiny_runs import history, manifest, only_run
from wandb_server.fixtures import TINY_FIT

from moe_tune.faults.same_run import unlike

STOPS = """
import os
import signal
from pathlib import Path
from lightning.pytorch import Callback

class Stops(Callback):
    def on_train_batch_start(self, trainer, tuner, batch, batch_index):
        rank, last, marker = trainer.global_rank, trainer.world_size - 1, Path(os.environ["STOPPED"])
        if rank == last and trainer.global_step == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), int(os.environ["NUMBER"]))
"""
EPOCHS = ("--trainer.max_epochs", "2", "--checkpoint_every.steps", "1")
PAIR = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu", "--data.batch_size", "2")
UNLOGGED = {"WANDB_MODE": "disabled"}


def fit(folder, number, around, *words):
    """Run a fit that is stopped once, in its second epoch, unless the folder says that it has been."""
    folder.mkdir(exist_ok=True)
    (folder / "stops.py").write_text(STOPS)
    own = {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    own |= {"STOPPED": str(folder / "stopped"), "NUMBER": str(int(number)), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "moe_tune", "fit", *TINY_FIT, "--runs_root", str(folder / "runs"), *EPOCHS, *words]
    command += ["--trainer.callbacks+", "stops.Stops"]
    return subprocess.run(command, env=around | own, cwd=folder.parent, capture_output=True, text=True, timeout=300)


def undisturbed(folder, around, *words):
    folder.mkdir()
    (folder / "stopped").touch()
    done = fit(folder, signal.SIGTERM, around, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return only_run(folder / "runs")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("pair") / "whole", os.environ | UNLOGGED, *PAIR)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_of_which_one_is_stopped_go_on_bit_for_bit(number, pair, tmp_path):
    ended = fit(tmp_path / "mine", number, os.environ | UNLOGGED, *PAIR)
    assert ended.returncode == 75 if number == signal.SIGTERM else ended.returncode not in (0, 2), ended.stderr[-3000:]
    again = fit(tmp_path / "mine", number, os.environ | UNLOGGED, *PAIR)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "resuming" in again.stderr + again.stdout
    mine = only_run(tmp_path / "mine" / "runs")
    assert manifest(mine)["status"] == "finished"
    assert unlike(mine, pair) == []


@pytest.mark.slow
def test_a_run_that_is_online_goes_on_as_one_run_with_every_row_once(wandb_server, tmp_path):
    around = wandb_server.environment(tmp_path)
    ended = fit(tmp_path / "mine", signal.SIGTERM, around)
    assert ended.returncode == 75, ended.stderr[-3000:]
    (run,) = wandb_server.store.runs.values()
    before = [row["trainer/global_step"] for row in run.history]
    assert before
    again = fit(tmp_path / "mine", signal.SIGTERM, around)
    assert again.returncode == 0, again.stderr[-3000:]
    (run,) = wandb_server.store.runs.values()
    assert (run.complete, run.exit_code) == (True, 0)
    assert len(run.history) > len(before)
    assert_every_row_once(only_run(tmp_path / "mine" / "runs"), run.history)


@pytest.mark.slow
def test_both_parts_of_a_run_that_is_offline_are_one_group_and_the_end_says_how_to_send_them(wandb_server, tmp_path):
    around = wandb_server.environment(tmp_path, WANDB_MODE="offline")
    assert fit(tmp_path / "mine", signal.SIGTERM, around).returncode == 75
    again = fit(tmp_path / "mine", signal.SIGTERM, around)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "wandb sync" in again.stderr + again.stdout
    folder = only_run(tmp_path / "mine" / "runs")
    parts = offline_parts(folder)
    assert len(parts) == 2
    assert len({part.run.run_group for part in parts}) == 1
    assert_every_row_once(folder, [row for part in parts for row in part.history])


def assert_every_row_once(folder, rows):
    lines = history(folder)
    for key in ("train/loss", "validation/accuracy"):
        kept = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        sent = [(row["trainer/global_step"], row[key]) for row in rows if row.get(key) is not None]
        assert len(kept) > 1
        assert sent == [(step, pytest.approx(value, rel=1e-6)) for step, value in kept], key
