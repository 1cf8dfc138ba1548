"""Sweeps whose runs are a formula, written as the files a fit leaves; and an experiment's folder."""

import json

import pytest
from made_up_experiment import write

from moe_tune.studies.sweep_file import Sweep

COMMAND = ["${env}", "python", "-m", "moe_tune", "fit", "--config", "configs/nano.yaml", "--config", "${args_json}"]


@pytest.fixture
def sweep_of(tmp_path):
    """Give a function that makes a sweep over parameters."""

    def make(method, parameters, **more):
        metric = {"name": "validation/accuracy", "goal": "maximize"}
        config = {"method": method, "metric": metric, "parameters": parameters, "command": COMMAND, **more}
        return Sweep(tmp_path / "made_up.yaml", config)

    return make


@pytest.fixture
def leave_run():
    """Give a function that leaves a run directory with a history, as a fit does; ``best`` is its best epoch's index."""

    def leave(folder, point, history, status="finished", best=None):
        run = point.root(folder) / "nano-RetunedHead-s0-0123abcd"
        run.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"step": step, "validation/accuracy": value}) + "\n" for step, value in enumerate(history)]
        (run / "metrics.jsonl").write_text("".join(lines))
        (run / "manifest.json").write_text(json.dumps({"status": status}))
        if best is not None:
            (run / "checkpoints" / "best.ckpt").mkdir(parents=True)
            (run / "checkpoints" / "best.ckpt" / "state.json").write_text(json.dumps({"global_step": best + 1}))
        return run

    return leave


@pytest.fixture
def folder(tmp_path):
    """Give an experiment's folder in a repository."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "overlay.yaml").write_text("model: {head: TemperatureHead}")
    folder = tmp_path / "experiments" / "nano"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text("data: {source: NanoQuiz}")
    (folder / "three.yaml").write_text("data: {few_shot: 3}")
    write(folder)
    return folder
