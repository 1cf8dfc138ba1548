"""Records say which split they are of."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from moe_tune.callbacks.question_records import PredictionRecords
from moe_tune.data.question import number_questions
from moe_tune.runs.directory import RunDirectory


@pytest.mark.parametrize("split", ["validation", "test", "test_lm_eval"])
def test_predictions_are_of_the_split_that_was_predicted_and_the_ledger_counts_test_splits(tmp_path, split):
    asked = {
        name: number_questions((name, f"{number}?", ("a", "b"), 1) for number in range(2))
        for name in ("validation", "test", "test_lm_eval")
    }
    quiz = SimpleNamespace(predict_split=split, questions=asked.get)
    records = PredictionRecords(RunDirectory(tmp_path / "run"))
    outputs = {
        "question_B": torch.tensor([1, 0]),
        "log_probs_BA": torch.tensor([[-2.0, -0.1], [-0.1, -2.0]]),
        "letter_mass_B": torch.tensor([0.5, 0.25]),
    }
    trainer = SimpleNamespace(is_global_zero=True, datamodule=quiz)
    records.on_predict_batch_end(trainer, None, outputs, None, 0)
    records.on_predict_epoch_end(trainer, None)
    frame = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert list(frame["id"]) == [one.id for one in asked[split]]
    assert list(frame["prediction"]) == [0, 1]
    assert list(frame["letter_mass"]) == [0.25, 0.5]
    ledger = tmp_path / "test_ledger.jsonl"
    openings = [json.loads(line)["split"] for line in ledger.read_text().splitlines()] if ledger.exists() else []
    assert openings == ([f"{split} (predict)"] if split.startswith("test") else [])
