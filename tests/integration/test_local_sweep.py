"""``sweep`` on the nano model: every point of a grid, the best as an overlay, and no point lost to kill -9."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from waiting import until

from moe_tune.cli.main import main
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.studies.sweep_file import load_sweep

BASE = ["configs/nano.yaml", "configs/debug/tiny.yaml", "configs/logger/none.yaml"]
TAUS = [0.4, 1.0, 2.5]


def written(folder, method, parameters, overlays=(), **more):
    command = ["${env}", "python", "-m", "moe_tune", "fit"]
    command += [word for path in [*BASE, *overlays] for word in ("--config", path)]
    command += ["--test_after_fit=false", "--config", "${args_json}"]
    metric = {"name": "validation/accuracy", "goal": "maximize"}
    file = folder / f"{method}.yaml"
    content = {"method": method, "metric": metric, "parameters": parameters, "command": command, **more}
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    file = written(folder, "grid", {"model.head.tau": {"values": TAUS}}, ["configs/head/temperature.yaml"])
    assert main(["sweep", str(file), "--runs_root", str(folder / "runs")]) == 0
    (sweep,) = (folder / "runs").iterdir()
    return file, sweep


def test_every_point_is_run_with_its_value(grid):
    _, folder = grid
    table = pd.read_csv(folder / "results.csv")
    assert list(table["model.head.tau"]) == TAUS
    assert set(table["status"]) == {"finished"}
    for tau, run, accuracy in zip(TAUS, table["run"], table["validation/accuracy"], strict=True):
        config = yaml.safe_load((folder / run / "config.yaml").read_text())
        assert config["model"]["head"]["init_args"]["tau"] == tau
        logged = [json.loads(line) for line in (folder / run / "metrics.jsonl").open()]
        assert accuracy == max(line["validation/accuracy"] for line in logged if "validation/accuracy" in line)


def test_the_test_split_stays_closed(grid):
    _, folder = grid
    assert not list(folder.rglob("openings.jsonl"))
    assert not list(folder.rglob("questions/test*.parquet"))


def test_the_overlay_on_the_base_is_the_best_run(grid):
    file, folder = grid
    table = pd.read_csv(folder / "results.csv")
    best = table.loc[table["validation/accuracy"].idxmax()]
    words = [word for path in [*load_sweep(file).configs, str(folder / "best.yaml")] for word in ("--config", path)]
    assert FitSettings(words).model.head.tau == best["model.head.tau"]


def test_a_finished_sweep_says_so_and_runs_nothing(grid, capsys):
    file, folder = grid
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    assert main(["sweep", str(file), "--runs_root", str(folder.parent)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")} == before
    assert "best: python -m moe_tune fit --config configs/nano.yaml" in capsys.readouterr().out


SHAKY = """
from pathlib import Path
from moe_tune.base.errors import ModelError
from moe_tune.heads.temperature import TemperatureHead

class ShakyHead(TemperatureHead):
    def bind(self, *given):
        if self.tau == 1.0 and Path(__file__).with_suffix(".unlucky").exists():
            raise ModelError("expected luck but got none.")
        super().bind(*given)
"""
IN_ONE_PROCESS = """
import contextlib, io, json, shlex, shutil, sys
from pathlib import Path
from moe_tune.cli.main import main
file, root, unlucky = sys.argv[1:]
told = []
def said(words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        told.append((main(words), out.getvalue()))
def command(after):
    line = next(line for line in told[-1][1].splitlines() if line.startswith(after))
    return shlex.split(line.removeprefix(after).removeprefix("python -m moe_tune "))
said(["check", file])
said(["sweep", file, "--runs_root", root])
Path(unlucky).unlink()
shutil.rmtree(next(Path(root).glob("sweep-*/points/000")))
said(command("to run what failed again: "))
said([*command("best: "), "--runs_root", root])
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_failed_point_and_one_whose_folder_is_gone_run_again_with_the_plug_in_of_the_sweeps_command(tmp_path):
    plugin, unlucky = tmp_path / "shaky.py", tmp_path / "shaky.unlucky"
    plugin.write_text(SHAKY)
    unlucky.touch()
    file = written(tmp_path, "grid", {"model.head.tau": {"values": TAUS}, "model.head": {"value": "ShakyHead"}})
    content = yaml.safe_load(file.read_text())
    content["command"][4:4] = ["--plugins", str(plugin)]
    file.write_text(yaml.safe_dump(content))
    # In a process of its own, so that the class is unknown to every other test.
    words = [sys.executable, "-c", IN_ONE_PROCESS, str(file), str(tmp_path / "runs"), str(unlucky)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (check, _), (first, told), (again, retold), (best, _) = json.loads(done.stdout.splitlines()[-1])
    assert (check, first, again, best) == (0, 1, 0, 0)
    assert "point 1 failed: expected luck but got none." in told
    assert f"python -m moe_tune sweep {file} --runs_root {tmp_path / 'runs'} --retry failed" in told
    assert "point 0 runs again: its folder is gone" in retold
    assert "point 1 runs again: it had failed: expected luck" in retold
    assert "failed again" not in retold
    assert f"best: python -m moe_tune --plugins {plugin} fit " in retold
    (table,) = (tmp_path / "runs").glob("sweep-*/results.csv")
    assert list(pd.read_csv(table)["status"]) == ["finished"] * 3


@pytest.mark.parametrize("words", [["--workers", "0"], ["--seed", "-1"], ["--count", "0"]])
def test_counts_that_are_none_are_refused(grid, words, tmp_path, capsys):
    assert main(["sweep", str(grid[0]), "--runs_root", str(tmp_path), *words]) == 2
    assert "at least" in capsys.readouterr().err


@pytest.mark.slow
def test_hyperband_stops_a_run_and_says_so(tmp_path):
    rates = {"optimizer.lr": {"values": [3.0e-3, 1.0e-9]}}
    stop = {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 4}}
    file = written(tmp_path, "grid", rates | {"trainer.max_epochs": {"value": 4}}, **stop)
    assert main(["sweep", str(file), "--runs_root", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    table = pd.read_csv(folder / "results.csv")
    assert list(table["status"]) == ["finished", "stopped"]
    assert table["epochs"][1] < table["epochs"][0] == 4
    manifest = json.loads((folder / table["run"][1] / "manifest.json").read_text())
    assert manifest["status"] == "stopped_early"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_minus_nine_loses_and_repeats_no_point(tmp_path, workers):
    rate = {"optimizer.lr": {"distribution": "log_uniform_values", "min": 1.0e-3, "max": 1.0e-2}}
    file = written(tmp_path, "random", rate | {"trainer.max_epochs": {"value": 2}})
    command = [sys.executable, "-m", "moe_tune", "sweep", str(file), "--count", "3", "--workers", workers]

    def begin(root):
        return subprocess.Popen([*command, "--runs_root", str(root)], start_new_session=True, stdout=-1, stderr=-2)

    process = begin(tmp_path / "runs")
    runs = tmp_path / "runs"
    until(lambda: list(runs.glob("*/points/001/*/metrics.jsonl")) or points(runs, 1) or process.poll() is not None, 300)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in finished(tmp_path / "runs")}
    values = [point["values"] for point in points(tmp_path / "runs")]
    again = begin(tmp_path / "runs")
    said = again.communicate(timeout=500)[0].decode()
    assert again.returncode == 0, said[-2000:]
    after = points(tmp_path / "runs")
    assert [point["status"] for point in after] == ["finished"] * 3
    assert [point["values"] for point in after][: len(values)] == values
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(finished(tmp_path / "runs")) == 3


def points(root: Path, ended: int = 0):
    (file,) = list(root.glob("*/state.json")) or [None]
    found = json.loads(file.read_text()) if file else []
    return found if sum(point["status"] == "finished" for point in found) >= ended else []


def finished(root: Path):
    """Return the metrics files of the runs whose manifest says they have ended."""
    manifests = [file for file in root.rglob("manifest.json") if "checkpoints" not in file.parts]
    ended = [file for file in manifests if json.loads(file.read_text()).get("status") == "finished"]
    return [file.parent / "metrics.jsonl" for file in ended]
