"""Heads and losses through the whole program: calibrated, learned, stacked, refused."""

import json
import math

import pandas as pd
import pytest
from safetensors.torch import load_file

from moe_tune.cli.main import main
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.tuner.router_tuner import RouterTuner

NANO = ["--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml", "--config", "configs/logger/none.yaml"]
HEADS = {
    "identity": ["--model.head", "IdentityHead"],
    "temperature at 1": ["--model.head", "TemperatureHead"],
    "no bias": ["--model.head", "AccuracyBiasHead", "--model.head.beta", "0"],
}


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("baseline"), *HEADS["identity"])


@pytest.mark.parametrize("name", list(HEADS)[1:])
def test_heads_that_change_nothing_answer_as_the_baseline(name, baseline, fit, tmp_path):
    run = fit(tmp_path, *HEADS[name])
    for split in ("test", "test_nano_textbook"):
        came, wanted = (pd.read_parquet(path / "questions" / f"{split}.parquet") for path in (run, baseline))
        pd.testing.assert_frame_equal(came, wanted)


def test_learning_rate_zero_changes_nothing(baseline, fit, tmp_path):
    run = fit(tmp_path, "--optimizer.lr", "0")
    came, wanted = (pd.read_parquet(path / "questions" / "test.parquet") for path in (run, baseline))
    pd.testing.assert_frame_equal(came, wanted)


@pytest.mark.parametrize("mode", ["logit", "select", "weight"])
def test_accuracy_bias_is_calibrated_on_training_questions(mode, fit, tmp_path):
    head = ["--model.head", "AccuracyBiasHead", "--model.head.mode", mode, "--model.head.n_min", "5"]
    run = fit(tmp_path, *head, "--model.head.shrinkage", "5", "--data.limit_train", "256")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["trainable_parameters"] == 0
    assert manifest["calibration"]["questions"] == 256
    saved = load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")
    assert any(bias_E.abs().max() > 0 for bias_E in saved.values())
    before = pd.read_parquet(run / "questions" / "test.parquet")
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    pd.testing.assert_frame_equal(before, pd.read_parquet(run / "questions" / "test.parquet"))


def test_a_stack_learns_all_its_parts(fit, tmp_path):
    overlay = ["--config", "configs/head/retuned_temperature.yaml", "--config", "configs/losses/balance_z.yaml"]
    run = fit(tmp_path, *overlay, "--trainer.log_every_n_steps", "1")
    saved = load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")
    assert {name.split(".", 2)[2] for name in saved} == {"parts.retuned.weight", "parts.temperature.theta"}
    assert all(value != 0 for name, value in saved.items() if name.endswith("theta"))
    logged = set().union(*(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()))
    assert {"train/loss_balance", "train/loss_balance_unscaled", "train/loss_z", "train/loss_z_unscaled"} <= logged


def test_a_scheduled_temperature_moves_while_something_else_trains(fit, tmp_path):
    overlay = ["--config", "configs/head/retuned_temperature.yaml"]
    moving = ["--model.head.parts.temperature.mode", "scheduled", "--model.head.parts.temperature.tau_end", "0.5"]
    run = fit(tmp_path, *overlay, *moving)
    saved = load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")
    moved = [float(value) for name, value in saved.items() if name.endswith("theta")]
    assert moved == pytest.approx([math.log(0.5)] * 4)


def test_a_schedule_with_nothing_to_train_is_at_its_end(fit, tmp_path):
    moving = ["--model.head", "TemperatureHead", "--model.head.mode", "scheduled", "--model.head.tau_end", "0.3"]
    run = fit(tmp_path, *moving)
    saved = load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors")
    assert [float(value) for value in saved.values()] == pytest.approx([math.log(0.3)] * 4)


def test_a_loss_that_reaches_no_parameter_is_refused(tmp_path, capsys):
    # At the answer position of the last layer alone, the raw logits do not depend on that layer's temperature.
    argv = ["fit", "--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml"]
    argv += ["--config", "configs/logger/none.yaml", "--model.head", "TemperatureHead", "--model.head.mode", "learned"]
    argv += ["--model.layers", "[3]", "--model.losses.z", "ZLoss", "--runs_root", str(tmp_path)]
    assert main(argv) == 2
    assert "'z' does not" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_before_an_update(tmp_path, capsys):
    argv = ["fit", "--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml"]
    argv += [
        "--config",
        "configs/logger/none.yaml",
        "--runs_root",
        str(tmp_path),
        "--optimizer.lr",
        "1e30",
        "--model.losses.z",
        "ZLoss",
    ]
    assert main(argv) == 5
    message = capsys.readouterr().err
    assert "'z' is inf" in message
    assert "step 1" in message


@pytest.mark.parametrize(
    "overlays",
    [["head/stack"], ["head/loss_free_bias", "losses/relu_l1"], ["head/default_expert", "losses/marginal_entropy"]],
    ids=["temperature, accuracy bias and low rank", "carried counts", "carried means"],
)
def test_what_is_stacked_trains_resumes_and_reloads_bit_exactly(overlays, fit, tmp_path, monkeypatch):
    """An interrupted fit ends as an undisturbed one does, to the last bit, and its checkpoint answers as it did."""
    arguments = [word for one in overlays for word in ("--config", f"configs/{one}.yaml")]
    arguments += ["--data.limit_train", "256", "--data.batch_size", "32"]
    whole = fit(tmp_path / "whole", *arguments)
    steps = RouterTuner.training_step

    def dies(self, batch, batch_index):
        if self.global_step == 13:
            raise RuntimeError("power cut")
        return steps(self, batch, batch_index)

    monkeypatch.setattr(RouterTuner, "training_step", dies)
    with pytest.raises(AssertionError):
        fit(tmp_path / "cut", *arguments)
    monkeypatch.setattr(RouterTuner, "training_step", steps)
    resumed = fit(tmp_path / "cut", *arguments)
    saved = [load_file(run / "checkpoints" / "last.ckpt" / "router.safetensors") for run in (whole, resumed)]
    assert saved[0].keys() == saved[1].keys()
    assert all(saved[1][name].equal(value) for name, value in saved[0].items())
    before = pd.read_parquet(whole / "questions" / "test.parquet")
    pd.testing.assert_frame_equal(before, pd.read_parquet(resumed / "questions" / "test.parquet"))
    assert main(["test", "--ckpt_path", str(whole / "checkpoints" / "best.ckpt")]) == 0
    pd.testing.assert_frame_equal(before, pd.read_parquet(whole / "questions" / "test.parquet"))


def test_a_loss_that_a_head_cannot_move_is_named(fit, tmp_path, recwarn):
    """No expert is below a share this small, so the hinge is at its bound."""
    fit(tmp_path, "--model.losses.dead", "DeadExpertHingeLoss", "--model.losses.dead.tau", "1.0e-30")
    assert any("'dead' has no gradient at the first step" in str(one.message) for one in recwarn)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, fit):
    head = ["--model.head", "AccuracyBiasHead", "--model.head.n_min", "5", "--test_after_fit", "false"]
    return str(fit(tmp_path_factory.mktemp("calibrated"), *head) / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "grid", "analyze"])
def test_no_verb_scores_a_calibrated_head_on_what_it_was_calibrated_on(verb, calibrated, tmp_path, monkeypatch, capsys):
    """The checkpoint knows the questions: whichever verb loads it, and whatever the split is called then."""
    same = NanoQuiz.rows
    monkeypatch.setattr(NanoQuiz, "rows", lambda self, split: same(self, "train" if split != "dev" else split))
    loaded = ["--ckpt_path", calibrated, "--runs_root", str(tmp_path)]
    words = {
        "grid": ["grid", *NANO, "--checkpoints", calibrated],
        "analyze": ["analyze", calibrated, "--out", str(tmp_path / "out"), "--shots", "0", "--sensitivity", "0"],
    }
    capsys.readouterr()
    assert main(words.get(verb, [verb, *loaded])) == 3
    assert "among those the head was calibrated on" in capsys.readouterr().err
