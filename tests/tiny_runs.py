"""Small fits on the nano model: their arguments, what they leave, and a power cut in the midst of one."""

import json

import pandas as pd
import pytest
from safetensors.torch import load_file

from moe_tune.cli.main import main
from moe_tune.tuner.router_tuner import RouterTuner

TINY = ["--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml", "--config", "configs/logger/none.yaml"]
HISTORY = (
    *("accuracy", "loss", "entropy_all", "entropy_topk", "activated_experts", "never_activated_share"),
    *("load_imbalance", "expert_accuracy_spread"),
)
"""What a history holds of each split."""
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
"""A trainer that writes and says nothing."""


def only_run(root):
    (run,) = [path for path in root.iterdir() if path.is_dir()]
    return run


def told_beside(root, *words):
    """Fit and test, and return the run directory and what was said of texts or short answers."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moe_tune.callbacks.beside_records.rank_zero_info", said.append)
        assert main(["fit", *TINY, *words, "--runs_root", str(root)]) == 0
    return only_run(root), said


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


def history(run, name="metrics.jsonl"):
    """Return the lines of a run's history."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def weights(run):
    return load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")


def answers(run, split="test"):
    return pd.read_parquet(run / "questions" / f"{split}.parquet")


def routing(run, split):
    return pd.read_parquet(run / "routing" / f"{split}.parquet")


def same_weights(run, other):
    came, wanted = weights(run), weights(other)
    return came.keys() == wanted.keys() and all(came[name].equal(value) for name, value in wanted.items())


def power_cut(step, fit):
    """Let a fit end at a step, as if the power had gone."""
    with pytest.MonkeyPatch.context() as patch:
        steps = RouterTuner.training_step

        def dies(self, batch, batch_index):
            if self.global_step == step:
                raise RuntimeError("power cut")
            return steps(self, batch, batch_index)

        patch.setattr(RouterTuner, "training_step", dies)
        with pytest.raises(AssertionError):
            fit()


def openings(run):
    """Return what the ledger keeps of the tests that a run opened."""
    file = run / "openings.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [one for one in lines if one["run"] == run.name]
