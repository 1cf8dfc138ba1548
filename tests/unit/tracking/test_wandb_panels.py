"""What W&B gets beside the history: gains in the summary, and the pretrained router's level in the panels."""

import json
from types import SimpleNamespace

import pytest

from moe_tune.tracking import wandb_logger
from moe_tune.tracking.wandb_content import curves_and_level
from moe_tune.tracking.wandb_logger import RouterWandbLogger, close_wandb_run, note_gains

ROWS = [
    {"step": 0, "base_validation/accuracy": 0.3, "base_validation/loss": 1.4},
    {"step": 4, "train/loss": 1.0},
    {"step": 8, "validation/accuracy": 0.5, "validation/loss": 1.1},
    {"step": 16, "validation/accuracy": 0.6, "validation/loss": None},
]


@pytest.fixture
def metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_curve_and_level_are_those_of_the_history(metrics):
    assert curves_and_level(metrics, "validation/accuracy") == ([8, 16], [0.5, 0.6], 0.3)
    assert curves_and_level(metrics, "validation/loss") == ([8], [1.1], 1.4)
    assert curves_and_level(metrics, "test/accuracy") is None


def test_a_finished_fit_has_both_curves_in_one_chart_and_its_gain_in_the_summary(metrics, monkeypatch):
    logged, summary = {}, {}
    settings = SimpleNamespace(sync_dir="", root_dir=str(metrics.parent))
    run = SimpleNamespace(settings=settings, disabled=False, log=logged.update, summary=summary)
    monkeypatch.setattr("wandb.run", run)
    monkeypatch.setattr("wandb.finish", lambda exit_code: None)
    monkeypatch.setattr(wandb_logger, "send_head", lambda *_: None)
    note_gains({"test": SimpleNamespace(diff=0.04, ci95=(0.01, 0.07))})
    monkeypatch.setattr(wandb_logger, "validation_summary", lambda _: {})
    close_wandb_run(failed=False, fitted=metrics.parent)
    gains = {"test/accuracy_gain": 0.04, "test/accuracy_gain_low": 0.01, "test/accuracy_gain_high": 0.07}
    assert summary == gains | {"validation/accuracy_max": 0.6, "validation/loss_min": 1.1}
    assert set(logged) == {"validation/accuracy_and_pretrained", "validation/loss_and_pretrained"}
    table = logged["validation/accuracy_and_pretrained"].table
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    found = {(row["lineKey"], row["step"], row["lineVal"]) for row in rows}
    assert found == {
        ("this run", 8, 0.5),
        ("this run", 16, 0.6),
        ("pretrained router", 8, 0.3),
        ("pretrained router", 16, 0.3),
    }


@pytest.mark.parametrize("plugins", [[], ["--plugins=mine.py"], ["--plugins=mine.py", "--plugins=other.py"]])
def test_the_verb_is_found_behind_plug_in_files(plugins, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["moe_tune", *plugins, "fit", "--config", "nano"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert RouterWandbLogger(save_dir=str(tmp_path))._wandb_init["job_type"] == "fit"
