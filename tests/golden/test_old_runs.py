"""What cfcf61f left on users' disks is found, read, continued: runs, checkpoints, prompt caches, names, plug-ins."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_old import CACHED, FITS, OLD, PLUGIN, losses
from golden_values import (
    ANALYSIS,
    analysis_figures,
    comparison_figures,
    differences,
    installed,
    letters,
    rounded,
    tensors,
)

from moe_tune.cli.main import main

ROOT = Path(__file__).parents[2]
OUTCOMES = json.loads((OLD / "outcomes.json").read_text())
LIBRARIES = {name: installed(name) for name in OUTCOMES["versions"]}
pytestmark = pytest.mark.skipif(
    OUTCOMES["versions"] != LIBRARIES,
    reason=f"names and keys hold the libraries' defaults: made with {OUTCOMES['versions']}, here are {LIBRARIES}",
)
NAMES = json.loads((OLD / "names.json").read_text())
FINISHED, INTERRUPTED, WITH_PLUGIN = (
    next((OLD / "runs").glob(f"{name}-*")).name for name in ("nano", "inter*", "plugin")
)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Give a user's working directory, as it was left, and go there."""
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    shutil.copy(OLD / "old_head.py.txt", tmp_path / "old_head.py")
    shutil.copy(OLD / "rates.yaml", tmp_path / "rates.yaml")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_fit(monkeypatch):
    """Let no trainer run: a name that is not found would begin a new run."""

    def begun(self, *args, **kwargs):
        raise RuntimeError("a new run has begun")

    # Not its verbs, of whose parameters the command line's are made.
    monkeypatch.setattr("lightning.pytorch.Trainer._run", begun)


def same(wanted, came):
    return list(differences(wanted, rounded(came)))


def test_names(tmp_path, no_fit, capsys, monkeypatch):
    """A run of this name, made by cfcf61f, is taken for what the same command would make."""
    monkeypatch.chdir(ROOT)
    for argv, name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text('{"status": "finished"}')
        assert main(["fit", *argv, "--runs_root", str(tmp_path)]) == 0, argv
        assert f"already complete: {tmp_path / name}." in capsys.readouterr().out, argv


def test_a_finished_run_is_complete_and_runs_from_its_own_configuration(desk, no_fit, capsys):
    saved = f"runs/{FINISHED}/config.yaml"
    assert "class_path: moe_tune.wandb_logger.RouterWandbLogger" in Path(saved).read_text()
    for argv in (FITS["finished"], ["fit", "--config", saved]):
        assert main(argv) == 0
        assert f"already complete: runs/{FINISHED}." in capsys.readouterr().out


def test_a_checkpoint_answers_as_it_did(desk):
    file = desk / "runs" / FINISHED / "questions" / "test.parquet"
    wanted = letters(file)
    file.unlink()
    assert main(["test", "--ckpt_path", f"runs/{FINISHED}/checkpoints/best.ckpt"]) == 0
    assert same(rounded(wanted), letters(file)) == []  # beside the fit: it is the same run


def test_a_run_is_analysed(desk):
    assert main(["analyze", f"runs/{FINISHED}", *ANALYSIS, "--out", "analysis"]) == 0
    assert same(OUTCOMES[f"analyze {FINISHED}"], analysis_figures(desk / "analysis")) == []


def test_runs_are_compared(desk):
    assert main(["compare", f"runs/{FINISHED}", f"runs/{WITH_PLUGIN}"]) == 0
    wanted = dict(OUTCOMES["compare"])
    folder = desk / "runs" / "compare" / wanted.pop("folder")
    assert same(wanted, comparison_figures(folder)) == []


def test_an_interrupted_run_goes_on(desk, caplog):
    run = desk / "runs" / INTERRUPTED
    with caplog.at_level("INFO"):
        assert main(FITS["interrupted"]) == 0
    assert f"resuming runs/{INTERRUPTED} from runs/{INTERRUPTED}/checkpoints/last.ckpt at step 4" in caplog.text
    wanted = OUTCOMES["resumed"]
    came = {
        "losses": losses(run),
        "tensors": tensors(run / "checkpoints" / "last.ckpt"),
        "letters": letters(run / "questions" / "test.parquet"),
    }
    assert same(wanted, came) == []
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"


def test_a_sweep_that_has_ended_runs_nothing(desk, no_fit, capsys):
    folder = desk / "runs" / OUTCOMES["sweep"]
    folder.mkdir()
    points = [
        {"index": i, "values": {"optimizer.lr": rate}, "status": "finished"} for i, rate in enumerate([3e-3, 0.03])
    ]
    (folder / "state.json").write_text(json.dumps(points))
    for point in points:
        (folder / "points" / f"{point['index']:03d}").mkdir(parents=True)  # one whose folder is gone would run again
    assert main(["sweep", "rates.yaml"]) == 1  # they hold no history, so none has a value
    assert f"sweep: runs/{OUTCOMES['sweep']}" in capsys.readouterr().out
    assert not list(folder.glob("points/*/*"))


@pytest.mark.parametrize("name", CACHED)
def test_a_prompt_cache_is_found_and_read(name, desk, monkeypatch, tmp_path):
    key = OUTCOMES[name]["key"]
    root = tmp_path / "cache" / "moe_tune" / "prompts"
    shutil.copytree(OLD / "prompts" / key, root / key)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main([*CACHED[name], "--runs_root", name]) == 0
    assert [path.name for path in root.iterdir() if path.is_dir()] == [key]
    assert all(file.read_bytes() == (OLD / "prompts" / key / file.name).read_bytes() for file in (root / key).iterdir())
    (file,) = (desk / name).glob("*/questions/validation.parquet")
    assert same(OUTCOMES[name]["letters"], letters(file)) == []


def test_caches_are_listed(capsys):
    assert main(["cache", "list", "--format", "json", "--folder", str(OLD / "prompts")]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {one["key"]: one["state"] for one in listed} == {OUTCOMES[name]["key"]: "complete" for name in CACHED}


def in_a_process(desk, *commands):
    """Run commands in one process of their own, so that the plug-in's classes are unknown to every other test."""
    code = "import json, sys; from moe_tune.cli.main import main; print(*map(main, json.loads(sys.argv[1])))"
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=desk,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plug_in_file_and_its_run(desk):
    file = desk / "runs" / WITH_PLUGIN / "questions" / "test.parquet"
    wanted = letters(file)
    file.unlink()
    done = in_a_process(
        desk,
        FITS["plugin"],
        [*PLUGIN, "test", "--ckpt_path", f"runs/{WITH_PLUGIN}/checkpoints/best.ckpt"],
        [*PLUGIN, "analyze", f"runs/{WITH_PLUGIN}", *ANALYSIS, "--out", "analysis"],
        [*FITS["plugin"], "--model.head.strength=0.3", "--runs_root=anew"],
        [*FITS["plugin"], "--model.head.strength=-1"],
    )
    assert done.stdout.splitlines()[-1] == "0 0 0 0 2", done.stderr
    assert f"already complete: runs/{WITH_PLUGIN}." in done.stdout
    assert "expected a strength of at least 0 but got -1" in done.stderr
    assert same(rounded(wanted), letters(file)) == []
    assert same(OUTCOMES[f"analyze {WITH_PLUGIN}"], analysis_figures(desk / "analysis")) == []
    assert list(desk.glob("anew/plugin-OldHead-s0-*/questions/test.parquet"))
