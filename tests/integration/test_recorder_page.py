"""The page about other trainers: its code runs as it stands."""

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    monkeypatch.chdir(tmp_path)
    names, page = {}, (ROOT / "docs" / "recorder.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    table = re.search(r"\| key \| meaning \|\n(.*?)\n\n", page, re.S).group(1)
    assert {f"routing/{key}" for key in re.findall(r"`(\w+)`", table)} == set(names["values"])
    assert names["values"]["routing/tokens"] == 2 * 16
    history = names["trainer"].state.log_history
    assert history[0]["routing/balance"] > 0.9
    (file,) = Path("out").rglob("metrics.csv")
    assert pd.read_csv(file)["routing/tokens"].tolist() == [2 * 16] * 4


def test_trl_takes_the_callback(tmp_path):
    import trl
    from datasets import Dataset

    from moe_tune import BaseModel, RoutingTrainerCallback

    base = BaseModel("nano")
    rows = Dataset.from_dict({"input_ids": [list(range(1, 10))] * 4, "labels": [list(range(1, 10))] * 4})
    arguments = trl.SFTConfig(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, logging_steps=1, report_to="none", use_cpu=True,
        save_strategy="no", dataset_kwargs={"skip_prepare_dataset": True}, bf16=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(base.load()[0], args=arguments, train_dataset=rows, processing_class=base.load_tokenizer())
    trainer.add_callback(RoutingTrainerCallback(trainer))
    trainer.train()
    logged = [one for one in trainer.state.log_history if "loss" in one]
    assert [one["routing/tokens"] for one in logged] == [2 * 9] * 2
