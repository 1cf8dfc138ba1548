"""Lightning's own options: each does what it says, or is refused in one line before anything runs."""

import json
import math
from itertools import pairwise

import pytest
from safetensors.torch import load_file
from tiny_runs import TINY, history, manifest, only_run, openings

from moe_tune import BaseModel, GatedModel
from moe_tune.base.errors import ModelError
from moe_tune.cli.main import main
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.base_model import NANO

CALLBACK = "--trainer.callbacks+=lightning.pytorch.callbacks"
PLATEAU = "--lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"
LEAVES = """
import sys
from lightning.pytorch import Callback

class Leaves(Callback):
    def on_train_batch_end(self, *args):
        sys.exit({code!r})
"""
RAISES = """
import pathlib
from lightning.pytorch import Callback
from moe_tune.base import errors

class Raises(Callback):
    def on_train_epoch_end(self, trainer, tuner):
        if pathlib.Path({flag!r}).exists() and trainer.current_epoch == {epoch}:
            raise {kind}("no more\\nof this")
"""
SAYS_NO = """
import torch
from moe_tune.heads.base import HeadTraits, RouterHead

class SaysNoHead(RouterHead):
    \"\"\"Trains and does not say so.\"\"\"

    @property
    def traits(self):
        return HeadTraits()

    def bind(self, gate):
        self.weight = torch.nn.Parameter(gate.weight_ED.detach().clone())
"""
REFUSED = {
    "stochastic weight averaging": (
        [f"{CALLBACK}.StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
        "averaging of weights",
    ),
    "weight averaging": ([f"{CALLBACK}.WeightAveraging"], "averaging of weights"),
    "exponential averaging": ([f"{CALLBACK}.EMAWeightAveraging"], "averaging of weights"),
    "a plateau of nothing": (
        ["--lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"],
        "--lr_scheduler.monitor validation/loss",
    ),
    "a cycle too short": (
        ["--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=0.01", "--lr_scheduler.total_steps=3"],
        "--lr_scheduler.total_steps 4",
    ),
    "no validation": (["--trainer.limit_val_batches=0"], "expected a validation of what is tested"),
    "an end before the first validation": (["--trainer.max_steps=2"], "2 steps and its first validation comes after 4"),
    "an abbreviated key": (["--trainer.max_epoch=1"], "Did you mean trainer.max_epochs"),
    "an abbreviated group": (["--mod.scope=all"], "expected a known key"),
    "an option's typo": (
        ["--model.head=TemperatureHead", "--model.head.tua=1"],
        "Did you mean tau? Available: mass, mode,",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_one_line_before_a_step(case, tmp_path, capsys):
    words, said = REFUSED[case]
    assert main(["fit", *TINY, "--runs_root", str(tmp_path), *words]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("moe_tune:")]
    assert said in line
    assert not list(tmp_path.glob("*/questions/*"))


def test_a_plateau_is_watched(tmp_path):
    words = [PLATEAU, "--lr_scheduler.monitor=validation/loss", "--lr_scheduler.patience=0", "--optimizer.lr=1.0"]
    assert main(["fit", *TINY, "--runs_root", str(tmp_path), *words, "--trainer.max_epochs=4"]) == 0
    losses = [row["validation/loss"] for row in history(only_run(tmp_path)) if "validation/loss" in row]
    assert all(map(math.isfinite, losses))
    state = json.loads((only_run(tmp_path) / "checkpoints" / "last.ckpt" / "state.json").read_text())
    (scheduler,) = state["lr_schedulers"]
    rises = any(later >= earlier for earlier, later in pairwise(losses))
    assert (scheduler["_last_lr"][0] < 1.0) == rises


def test_a_dry_run_reads_no_test_row_and_never_finishes(tmp_path, capsys):
    assert main(["fit", *TINY, "--runs_root", str(tmp_path), "--trainer.fast_dev_run=true"]) == 0
    said = manifest(only_run(tmp_path))
    assert said["status"] == "tried"
    assert "test" not in said.get("data", {}).get("splits", {})
    assert openings(only_run(tmp_path)) == []
    assert main(["test", *TINY, "--runs_root", str(tmp_path), "--trainer.fast_dev_run=true"]) == 2
    assert "Hint: try it on the validation split" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code", [pytest.param(0, marks=pytest.mark.slow), 7, pytest.param("bye", marks=pytest.mark.slow)]
)
def test_an_exit_inside_a_callback_is_a_failed_run(code, tmp_path, capsys):
    file = tmp_path / "leaving.py"
    file.write_text(LEAVES.format(code=code))
    words = ["--plugins", str(file), "fit", *TINY, "--runs_root", str(tmp_path / "runs")]
    assert main([*words, "--trainer.callbacks+=moe_tune_plugin_leaving.Leaves"]) == 1
    assert "sys.exit" in capsys.readouterr().err
    assert manifest(only_run(tmp_path / "runs"))["status"] == "failed"


@pytest.mark.parametrize(
    ("kind", "epoch", "ends", "said"),
    [("errors.NumericsError", 1, 5, "no more"), ("RuntimeError", 0, 1, "RuntimeError: no more")],
)
def test_a_run_that_fails_says_so_and_goes_on(kind, epoch, ends, said, tmp_path, capsys):
    file, flag, root = tmp_path / "raising.py", tmp_path / "flag", tmp_path / "runs"
    file.write_text(RAISES.format(kind=kind, flag=str(flag), epoch=epoch))
    flag.touch()
    words = ["--plugins", str(file), "fit", *TINY, "--runs_root", str(root), "--trainer.max_epochs=2"]
    words.append("--trainer.callbacks+=moe_tune_plugin_raising.Raises")
    assert main(words) == ends
    assert (manifest(only_run(root))["status"], manifest(only_run(root))["failure"]) == ("failed", said)
    assert main(["list", "runs", "--runs_root", str(root)]) == 0
    assert f"failed: {said}" in " ".join(capsys.readouterr().out.split())
    if not epoch:  # it failed before its first checkpoint
        assert main(["trace", str(only_run(root)), "--prompt", "A"]) == 4
        err = capsys.readouterr().err
        assert "a run with a checkpoint but its fit did not finish (status failed" in err
    flag.unlink()
    assert main(words) == 0
    ended = manifest(only_run(root))
    assert ended["status"] == "finished"
    assert "failure" not in ended


def test_a_head_that_trains_and_says_not_is_refused(tmp_path, capsys):
    file = tmp_path / "says_no.py"
    file.write_text(SAYS_NO)
    words = ["--plugins", str(file), "fit", *TINY, "--runs_root", str(tmp_path / "runs"), "--model.head", "SaysNoHead"]
    assert main(words) == 2
    assert "HeadTraits(trainable=True)" in capsys.readouterr().err


def test_more_layers_than_there_are_is_said(tmp_path, caplog):
    words = ["--model.layers", "last-99", "--test_after_fit", "false", "--model.head", "IdentityHead"]
    with caplog.at_level("INFO"):
        assert main(["fit", *TINY, "--runs_root", str(tmp_path), *words]) == 0
    assert "last-99: it has no more" in caplog.text


def test_a_model_with_heads_is_not_saved(tmp_path):
    gated = GatedModel(*BaseModel("nano").load(), IdentityHead())
    with pytest.raises(ModelError, match="detach"):
        gated.model.save_pretrained(tmp_path)
    gated.detach()
    gated.model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(NANO / "model.safetensors").keys()
