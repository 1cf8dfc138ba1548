"""Records say which split they are of."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_runs import openings

from moe_tune.callbacks.question_records import PredictionRecords
from moe_tune.data.question import number_questions
from moe_tune.runs.directory import RunDirectory


@pytest.mark.parametrize("split", ["validation", "test", "test_lm_eval"])
def test_predictions_are_of_the_split_that_was_predicted_and_the_ledger_counts_test_splits(tmp_path, split):
    asked = {
        name: number_questions((name, f"{number}?", ("a", "b"), 1) for number in range(2))
        for name in ("validation", "test", "test_lm_eval")
    }
    quiz = SimpleNamespace(predict_split=split, questions=asked.get, protocol_name=lambda _: "lm_eval", few_shot=0)
    tuner = SimpleNamespace(gated=SimpleNamespace(all_weights="0" * 16))
    records = PredictionRecords(RunDirectory(tmp_path / split))
    outputs = {
        "question_B": torch.tensor([1, 0]),
        "log_probs_BA": torch.tensor([[-2.0, -0.1], [-0.1, -2.0]]),
        "letter_mass_B": torch.tensor([0.5, 0.25]),
    }
    trainer = SimpleNamespace(is_global_zero=True, datamodule=quiz)
    records.on_predict_batch_end(trainer, tuner, outputs, None, 0)
    records.on_predict_epoch_end(trainer, tuner)
    frame = pd.read_parquet(tmp_path / split / "predictions.parquet")
    assert list(frame["id"]) == [one.id for one in asked[split]]
    assert list(frame["prediction"]) == [0, 1]
    assert list(frame["letter_mass"]) == [0.25, 0.5]
    told = [(one["split"], one["verb"]) for one in openings(tmp_path / split)]
    assert told == ([(split, "predict")] if split.startswith("test") else [])
