"""Two processes on gloo do what one does: the same metrics, every question once, one set of heads, one set of files."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_runs import history, manifest, only_run, openings
from tolerances import rounding_of

COMMON = [
    *("--config", "configs/nano.yaml", "--config", "configs/logger/none.yaml", "--config", "configs/trainer/cpu.yaml"),
    *("--data.limit_train", "100", "--data.limit_validation", "50", "--data.limit_test", "50"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
]
LARGEST_LOGIT = 8.0
"""None of the nano model's router logits is as large."""
SPY = """
import os
import torch
from lightning.pytorch import Callback

class Spy(Callback):
    def on_train_epoch_end(self, trainer, tuner):
        self.noise = torch.rand(1).item()

    def on_fit_end(self, trainer, tuner):
        rank = trainer.global_rank
        torch.save({"state": tuner.gated.state(), "noise": self.noise}, os.environ["SPY"] + str(rank))
"""


def run(root, *words, spy=None):
    """Run a fit in its own process, with a prompt cache of its own, and return its run directory and what it said."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    if spy is not None:
        (root / "spy.py").parent.mkdir(parents=True, exist_ok=True)
        (root / "spy.py").write_text(SPY)
        environment |= {"SPY": str(spy), "PYTHONPATH": str(root)}
        words = (*words, "--trainer.callbacks+", "spy.Spy")
    command = [sys.executable, "-m", "moe_tune", "fit", *COMMON, "--runs_root", str(root / "runs"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    path = only_run(root / "runs")
    return path, done.stderr + done.stdout


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return the run of one process, that of two, and the folder of the latter's spies."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    single, _ = run(one, "--data.batch_size", "32", "--data.eval_batch_size", "16")
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "16")
    double, said = run(two, *ddp, "--data.eval_batch_size", "8", spy=two / "spy")
    return single, double, two, said


def frames(path, folder):
    return {file.stem: pd.read_parquet(file) for file in sorted((path / folder).glob("*.parquet"))}


@pytest.mark.slow
def test_the_metrics_agree(pair):
    single, double, *_ = pair
    ours, theirs = frames(double, "routing"), frames(single, "routing")
    assert ours.keys() == theirs.keys()
    for split, frame in theirs.items():
        assert frame.columns.equals(ours[split].columns)
        for name in frame.columns:
            if frame[name].dtype.kind == "f":
                rounding = rounding_of(LARGEST_LOGIT if name in ("margin_mean", "base_kl") else 1.0)
                np.testing.assert_allclose(ours[split][name], frame[name], rtol=1e-6, atol=rounding, err_msg=name)
            else:
                assert ours[split][name].equals(frame[name]), (split, name)


@pytest.mark.slow
def test_every_question_is_answered_once_and_alike(pair):
    single, double, *_ = pair
    ours, theirs = frames(double, "questions"), frames(single, "questions")
    for split, frame in theirs.items():
        assert not ours[split]["id"].duplicated().any()
        assert ours[split]["id"].tolist() == frame["id"].tolist()
        assert ours[split]["prediction"].tolist() == frame["prediction"].tolist()
        for mine, other in zip(ours[split]["log_probs"], frame["log_probs"], strict=True):
            np.testing.assert_allclose(mine, other, atol=2e-5)


@pytest.mark.slow
def test_the_heads_are_one_and_the_noise_is_not(pair):
    single, double, folder, _ = pair
    spies = [torch.load(folder / f"spy{rank}", weights_only=True) for rank in (0, 1)]
    assert spies[0]["noise"] != spies[1]["noise"]
    for name, value in spies[0]["state"].items():
        assert torch.equal(value, spies[1]["state"][name]), name
    ours, theirs = (load_file(path / "checkpoints" / "last.ckpt" / "router.safetensors") for path in (double, single))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_the_first_process_writes_the_files(pair):
    single, double, _, said = pair
    histories = []
    for path in (single, double):
        lines = history(path)
        histories.append([(line["step"], sorted(line.keys() - {"time"})) for line in lines])
    assert histories[0] == histories[1], "no line twice"
    assert len(openings(double)) == 2, "one opening for each protocol of the test split"
    assert manifest(double)["status"] == "finished"
    told = [line for line in said.splitlines() if "accuracy" in line]
    assert len(told) == len(set(told)) == 4, "an epoch, two tests, and the best validation"
    assert "sync_dist" not in said


@pytest.mark.slow
def test_the_prompt_cache_holds_every_question_once(pair):
    _, _, folder, _ = pair
    records = [yaml.safe_load(file.read_text()) for file in folder.glob("cache/moe_tune/prompts/*/*.json")]
    sizes = {record["description"]["split"]: record["questions"] for record in records if "description" in record}
    assert sizes == {"train": 100, "validation": 50, "test": 50, "test_nano_textbook": 50}


@pytest.mark.slow
def test_what_is_known_of_single_questions_is_known_to_both(tmp_path):
    """A guard, the oracle's routing, the neighbours' and samples come from each process's part of the questions."""
    named = {"oracle": "OracleDistillationLoss", "manifold": "ManifoldLoss", "routes": "RouteRegretLoss"}
    words = json.dumps({f"model.losses.{name}": kind for name, kind in named.items()})
    guarded = ("--config", words, "--model.head=Guard", "--model.head.head=RetunedHead", "--model.layers=last-2")
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "16")
    single, _ = run(tmp_path / "one", *guarded, "--data.batch_size", "32")
    double, _ = run(tmp_path / "two", *guarded, *ddp)
    ours, theirs = (load_file(path / "checkpoints" / "last.ckpt" / "router.safetensors") for path in (double, single))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4, msg=name)
    shares = [
        {key: value for line in history(path) for key, value in line.items() if key.endswith("acting_share")}
        for path in (single, double)
    ]
    assert shares[0] == shares[1]
    assert set(shares[0]) == {f"{split}/acting_share" for split in ("validation", "test", "test_nano_textbook")}
