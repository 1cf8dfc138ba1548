"""``experiment --full`` on the nano model: a setting is chosen with the test closed, and another model runs, too."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_runs import answers

from moe_tune.cli.main import main

BASE = ["configs/nano.yaml", "configs/debug/tiny.yaml", "configs/logger/none.yaml"]
COPY = """
import shutil, sys
shutil.copytree({source!r}, sys.argv[sys.argv.index("--out") + 1])
"""


@pytest.mark.slow
def test_full_tunes_and_runs_on_another_model_and_later_runs_read_the_choice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "claim"
    folder.mkdir()
    (folder / "copy.py").write_text(COPY.format(source=str(Path("moe_tune/models/nano").resolve())))
    metric = {"name": "validation/accuracy", "goal": "maximize"}
    rates = {"optimizer.lr": {"values": [1.0e-9, 1.0e-2]}}
    (folder / "rate.yaml").write_text(yaml.safe_dump({"method": "grid", "metric": metric, "parameters": rates}))
    experiment = {
        "name": "tuned", "claim": "It runs.", "base": BASE, "seeds": [3], "tune": {"retuned": "rate.yaml"},
        "arms": {"untouched": "configs/head/identity.yaml", "retuned": "configs/head/retuned.yaml"},
        "models": {"copied": {"make": "copy.py"}},
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    words = ["experiment", str(folder), "--runs_root", str(tmp_path / "runs")]
    assert main(words) == 2
    assert f"`python -m moe_tune experiment {folder} --full`" in capsys.readouterr().err
    assert main([*words, "--full"]) == 0
    chosen = yaml.safe_load((folder / "tuned.yaml").read_text())["retuned"]
    assert chosen["points"] == 2
    (sweep,) = (tmp_path / "runs").glob("sweep-rate-*")
    assert not list(sweep.rglob("openings.jsonl"))
    assert not list(sweep.rglob("questions/test*.parquet"))
    own, copied = (sorted((tmp_path / "runs").glob(f"{name}retuned-*")) for name in ("tuned-", "tuned-copied-"))
    assert len(own) == len(copied) == 1
    config = yaml.safe_load((own[0] / "config.yaml").read_text())
    assert config["optimizer"]["init_args"]["lr"] == chosen["settings"]["optimizer.lr"]
    assert answers(own[0])["prediction"].equals(answers(copied[0])["prediction"])
    summaries = [json.loads((folder / "results" / name / "summary.json").read_text()) for name in (".", "copied")]
    assert [one["experiment"] for one in summaries] == ["tuned", "tuned-copied"]
    for file in (folder / "results").rglob("*.*"):
        assert str(tmp_path) not in file.read_text(), f"a machine path in {file.name}"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("metrics.jsonl")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("metrics.jsonl")} == before
