"""A second identical command leaves the first one's run alone, whatever the first has done so far."""

import os
import subprocess
import sys
import time

import pytest
from tiny_runs import TINY, manifest

from moe_tune.base.locks import WorkLock
from moe_tune.cli.main import main
from moe_tune.studies.sweep_file import load_sweep, sweep_folder

WORDS = [*TINY, "--trainer.callbacks+=pause.Pause", "--trainer.enable_progress_bar=false", "--test_after_fit=false"]
PAUSE = """
import os
import time
from pathlib import Path
from lightning.pytorch import Callback

class Pause(Callback):
    def on_train_start(self, trainer, tuner):
        folder = Path(os.environ["PAUSE"])
        if (folder / "begun").exists():
            return
        (folder / "begun").touch()
        while not (folder / "go").exists():
            time.sleep(0.05)
"""


@pytest.mark.slow
def test_a_second_fit_is_refused_before_the_first_checkpoint_and_changes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "pause.py").write_text(PAUSE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PAUSE", str(tmp_path))
    words = ["fit", *WORDS, "--runs_root", str(tmp_path / "runs")]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([sys.executable, "-m", "moe_tune", *words], env=here, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "begun").exists() and first.poll() is None:
            time.sleep(0.1)
        (run,) = (tmp_path / "runs").glob("*-s0-*")
        assert not (run / "checkpoints").exists()
        code = main(words)
        (tmp_path / "go").touch()
        said = first.communicate(timeout=300)[1]
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 0, said
    assert code == 2
    assert f"process {first.pid} on " in capsys.readouterr().err
    assert manifest(run)["status"] == "finished"
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == [run.name]


def test_a_second_experiment_is_refused(tmp_path, capsys):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(
        "name: words\nclaim: none\nbase: [configs/nano.yaml]\nseeds: [0]\nbaseline: base\narms: {base: []}\n"
    )
    with WorkLock(tmp_path / "runs" / "experiment-words", "an experiment"):
        assert main(["experiment", str(folder), "--runs_root", str(tmp_path / "runs")]) == 2
    assert f"an experiment that no other process works on but got one that process {os.getpid()}" in (
        capsys.readouterr().err
    )


def test_a_second_sweep_is_refused(tmp_path, capsys):
    values = "parameters: {optimizer.lr: {values: [0.1, 0.2]}}"
    words = "--config, configs/nano.yaml, --test_after_fit=false, --config, '${args_json}'"
    metric = "method: grid\nmetric: {name: validation/accuracy, goal: maximize}"
    file = tmp_path / "sweep.yaml"
    file.write_text(f"{metric}\n{values}\ncommand: [python, -m, moe_tune, fit, {words}]\n")
    folder = sweep_folder(load_sweep(file), tmp_path / "runs", 0, {})
    with WorkLock(folder, "a sweep"):
        assert main(["sweep", str(file), "--runs_root", str(tmp_path / "runs")]) == 2
    assert "--workers 2" in capsys.readouterr().err
