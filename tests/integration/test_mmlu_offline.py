"""Real MMLU questions and OLMoE's tokenizer through a small random OLMoE: chance, and tables for 57 subjects."""

import json
from pathlib import Path

import pandas as pd
import pytest

from moe_tune.cli.main import main


@pytest.mark.slow
def test_mmlu_offline_runs_through(tmp_path, caplog):
    argv = ["fit", "--config", "configs/mmlu_offline.yaml", "--config", "configs/logger/none.yaml"]
    argv += ["--runs_root", str(tmp_path), "--data.limit_train", "64", "--data.limit_validation", "64"]
    with caplog.at_level("INFO"):
        assert main([*argv, "--data.limit_test", "1140", "--trainer.max_epochs", "1"]) == 0
    assert "chance is 25.0" in caplog.text
    (run,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    table = pd.read_parquet(run / "routing" / "test_by_subject.parquet")
    assert table["subject"].nunique() == 57
    questions = pd.read_parquet(run / "questions" / "test.parquet")
    assert 0.21 <= (questions["gold"] == questions["prediction"]).mean() <= 0.29
    data = json.loads((Path(run) / "manifest.json").read_text())["data"]
    assert data["splits"]["train"]["n"] == 64
