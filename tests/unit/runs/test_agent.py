"""What a run takes from an agent's environment, and which ends are an agent's doing."""

from pathlib import Path

import pytest

from moe_tune.base.preemption import Preempted
from moe_tune.runs.agent import StoppedBySweep, own_folder, record_end, stopped_by_sweep
from moe_tune.runs.directory import RunDirectory
from moe_tune.tracking.wandb_logger import RouterWandbLogger

FOLDER = Path("runs/nano-RetunedHead-s0-0123abcd")


@pytest.fixture
def agent(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "r1")


def from_keyboard():
    end = SystemExit(1)
    end.__context__ = KeyboardInterrupt()  # as Lightning leaves it
    return end


def test_without_an_agent_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    assert own_folder(FOLDER) == FOLDER
    directory = RunDirectory(tmp_path)
    directory.update_manifest(status="finished")
    record_end(directory, early=False)
    assert directory.manifest == {"status": "finished"}
    assert not stopped_by_sweep(Preempted("SIGTERM"))
    assert not stopped_by_sweep(from_keyboard())
    assert stopped_by_sweep(StoppedBySweep())


@pytest.mark.usefixtures("agent")
def test_an_agents_run_has_its_id_and_group():
    assert own_folder(FOLDER) == FOLDER.with_name("nano-RetunedHead-s0-r1")
    assert RouterWandbLogger()._wandb_init["group"] == "s1"
    assert RouterWandbLogger(group="mine")._wandb_init["group"] == "mine"


@pytest.mark.usefixtures("agent")
def test_under_an_agent_a_signal_and_wandbs_interrupt_are_early_ends_and_faults_are_not():
    assert stopped_by_sweep(Preempted("SIGTERM"))
    assert stopped_by_sweep(from_keyboard())
    assert not stopped_by_sweep(SystemExit(2))


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(("early", "status"), [(True, "stopped_early"), (False, "finished")])
def test_the_manifest_tells_an_early_end_from_completion(tmp_path, early, status):
    directory = RunDirectory(tmp_path)
    directory.update_manifest(status="finished")
    record_end(directory, early=early)
    assert directory.manifest == {"status": status, "sweep": {"id": "s1", "run": "r1", "stopped_early": early}}
    assert directory.is_finished is not early


@pytest.mark.usefixtures("agent")
def test_a_run_that_had_not_begun_leaves_no_manifest(tmp_path):
    record_end(RunDirectory(tmp_path), early=True)
    assert not list(tmp_path.iterdir())
