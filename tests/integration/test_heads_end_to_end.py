"""Heads and losses through the whole program: calibrated, learned, stacked, refused."""

import math

import pandas as pd
import pytest
from tiny_runs import TINY, answers, history, manifest, power_cut, same_weights, weights

from moe_tune.cli.main import main
from moe_tune.data.nano_quiz import NanoQuiz


@pytest.mark.parametrize(
    "words", [["--optimizer.lr", "1e-30"], ["--model.head", "AccuracyBiasHead", "--model.head.beta", "0"]]
)
def test_what_changes_nothing_answers_as_the_pretrained_router(words, untouched, fit, tmp_path):
    run = fit(tmp_path, *words)
    for split in ("test", "test_nano_textbook"):
        pd.testing.assert_frame_equal(answers(run, split), answers(untouched, split))


def test_accuracy_bias_is_calibrated_on_training_questions(fit, tmp_path):
    head = ["--model.head", "AccuracyBiasHead", "--model.head.n_min", "5", "--model.head.shrinkage", "5"]
    run = fit(tmp_path, *head, "--data.limit_train", "256")
    assert manifest(run)["trainable_parameters"] == 0
    assert manifest(run)["calibration"]["questions"] == 256
    assert any(bias_E.any() for bias_E in weights(run).values())
    before = answers(run)
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    pd.testing.assert_frame_equal(before, answers(run))


def test_a_stack_learns_all_its_parts(fit, tmp_path):
    overlay = ["--config", "configs/head/retuned_temperature.yaml", "--config", "configs/losses/balance_z.yaml"]
    run = fit(tmp_path, *overlay, "--trainer.log_every_n_steps", "1")
    saved = weights(run)
    assert {name.split(".", 2)[2] for name in saved} == {"parts.retuned.weight", "parts.temperature.theta"}
    assert all(value != 0 for name, value in saved.items() if name.endswith("theta"))
    logged = set().union(*history(run))
    assert {"train/loss_balance", "train/loss_balance_unscaled", "train/loss_z", "train/loss_z_unscaled"} <= logged


@pytest.mark.slow
def test_a_scheduled_temperature_moves_while_something_else_trains(fit, tmp_path):
    overlay = ["--config", "configs/head/retuned_temperature.yaml"]
    moving = ["--model.head.parts.temperature.mode", "scheduled", "--model.head.parts.temperature.tau_end", "0.5"]
    run = fit(tmp_path, *overlay, *moving)
    moved = [float(value) for name, value in weights(run).items() if name.endswith("theta")]
    assert moved == pytest.approx([math.log(0.5)] * 4)


def test_a_schedule_with_nothing_to_train_is_at_its_end(fit, tmp_path):
    moving = ["--model.head", "TemperatureHead", "--model.head.mode", "scheduled", "--model.head.tau_end", "0.3"]
    run = fit(tmp_path, *moving)
    assert [float(value) for value in weights(run).values()] == pytest.approx([math.log(0.3)] * 4)


def test_a_loss_that_reaches_no_parameter_is_refused(tmp_path, capsys):
    # At the answer position of the last layer alone, the raw logits do not depend on that layer's temperature.
    argv = ["fit", *TINY, "--model.head", "TemperatureHead", "--model.head.mode", "learned", "--model.layers", "[3]"]
    assert main([*argv, "--model.losses.z", "ZLoss", "--runs_root", str(tmp_path)]) == 2
    assert "'z' does not" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_before_an_update(tmp_path, capsys):
    argv = ["fit", *TINY, "--runs_root", str(tmp_path), "--optimizer.lr", "1e30", "--model.losses.z", "ZLoss"]
    assert main(argv) == 5
    message = capsys.readouterr().err
    assert "'z' is inf" in message
    assert "step 1" in message


@pytest.mark.parametrize(
    "overlays",
    [
        ["head/stack"],
        pytest.param(["head/loss_free_bias", "losses/relu_l1"], marks=pytest.mark.slow),
        pytest.param(["head/default_expert", "losses/marginal_entropy"], marks=pytest.mark.slow),
    ],
    ids=["temperature, accuracy bias and low rank", "carried counts", "carried means"],
)
def test_what_is_stacked_trains_resumes_and_reloads_bit_exactly(overlays, fit, tmp_path):
    """An interrupted fit ends as an undisturbed one does, to the last bit, and its checkpoint answers as it did."""
    arguments = [word for one in overlays for word in ("--config", f"configs/{one}.yaml")]
    arguments += ["--data.limit_train=128", "--data.batch_size=32", "--data.limit_test=32", "--data.test_protocols=[]"]
    whole = fit(tmp_path / "whole", *arguments)
    power_cut(6, lambda: fit(tmp_path / "cut", *arguments))
    resumed = fit(tmp_path / "cut", *arguments)
    assert same_weights(whole, resumed)
    before = answers(whole)
    pd.testing.assert_frame_equal(before, answers(resumed))
    assert main(["test", "--ckpt_path", str(whole / "checkpoints" / "best.ckpt")]) == 0
    pd.testing.assert_frame_equal(before, answers(whole))


def test_a_loss_that_a_head_cannot_move_is_named(fit, tmp_path, recwarn):
    """No expert is below a share this small, so the hinge is at its bound."""
    fit(tmp_path, "--model.losses.dead", "DeadExpertHingeLoss", "--model.losses.dead.tau", "1.0e-30")
    assert any("'dead' has no gradient at the first step" in str(one.message) for one in recwarn)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, fit):
    head = ["--model.head", "AccuracyBiasHead", "--model.head.n_min", "5", "--test_after_fit", "false"]
    return str(fit(tmp_path_factory.mktemp("calibrated"), *head) / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param("validate", marks=pytest.mark.slow),
        "test",
        pytest.param("predict", marks=pytest.mark.slow),
        "grid",
        "analyze",
    ],
)
def test_no_verb_scores_a_calibrated_head_on_what_it_was_calibrated_on(verb, calibrated, tmp_path, monkeypatch, capsys):
    """The checkpoint knows the questions: whichever verb loads it, and whatever the split is called then."""
    same = NanoQuiz.rows
    monkeypatch.setattr(NanoQuiz, "rows", lambda self, split: same(self, "train" if split != "dev" else split))
    loaded = ["--ckpt_path", calibrated, "--runs_root", str(tmp_path)]
    words = {
        "grid": ["grid", *TINY, "--checkpoints", calibrated],
        "analyze": ["analyze", calibrated, "--out", str(tmp_path / "out"), "--shots", "0", "--sensitivity", "0"],
    }
    capsys.readouterr()
    assert main(words.get(verb, [verb, *loaded])) == 3
    assert "among those the head was calibrated on" in capsys.readouterr().err
