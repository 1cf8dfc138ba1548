"""What a run leaves of its routing: tables, figures and the pretrained reference; and that it changes nothing."""

import pandas as pd
import pytest
from tiny_runs import HISTORY, history, power_cut, routing, same_weights

from moe_tune.callbacks import base_reference, evidence_log
from moe_tune.callbacks.base_reference import BaseReference
from moe_tune.callbacks.evidence_log import EvidenceLog

FIGURES = ("usage", "accuracy", "entropy", "scatter")
NOISY = ("--model.head", "NoisyTopKHead", "--test_after_fit", "false", "--trainer.log_every_n_steps", "1")
TRAIN_TOO = ("--trainer.callbacks+", "EvidenceLog", "--trainer.callbacks.train", "true")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, fit):
    """Give a fit whose head draws noise in training, so that a number drawn elsewhere would show."""
    return fit(tmp_path_factory.mktemp("noisy"), *NOISY, *TRAIN_TOO)


def test_every_split_leaves_a_table_and_four_figures(finished):
    for split in ("validation", "test", "test_nano_textbook"):
        table = routing(finished, split)
        assert {"usage", "accuracy", "accuracy_low", "shrunk", "shrunk_high"} <= set(table.columns)
        for name in FIGURES:
            assert (finished / "figures" / f"{split}_{name}.png").read_bytes()[1:4] == b"PNG"
    assert not list((finished / "figures").glob("train*"))


def test_the_reference_is_in_the_history_once_before_training(finished):
    first, *rest = history(finished)
    assert first["step"] == 0
    assert set(first) == {"step", "time", *(f"base_validation/{key}" for key in HISTORY)}
    assert not any(key.startswith("base_validation/") for line in rest for key in line)


def test_the_reference_is_what_the_model_does_without_a_head(finished, untouched):
    wanted = routing(untouched, "validation")
    for run in (finished, untouched):
        pd.testing.assert_frame_equal(routing(run, "base_validation"), wanted)
    (validated,) = (line for line in history(untouched) if "validation/accuracy" in line)
    for run in (finished, untouched):
        (based,) = (line for line in history(run) if "base_validation/accuracy" in line)
        assert {key: based[f"base_validation/{key}"] for key in HISTORY} == {
            key: validated[f"validation/{key}"] for key in HISTORY
        }


def test_a_calibrated_head_is_shown_beside_the_pretrained_router(finished, fit, tmp_path):
    run = fit(tmp_path, "--config", "configs/head/temperature.yaml", "--test_after_fit", "false")
    base = routing(run, "base_validation")
    pd.testing.assert_frame_equal(base, routing(finished, "base_validation"))
    assert not base["entropy_all_mean"].equals(routing(run, "validation")["entropy_all_mean"])


def test_weights_and_history_are_the_same_with_and_without(noisy, fit, tmp_path, monkeypatch):
    for hook in ("on_train_start", "on_validation_epoch_end"):
        monkeypatch.setattr(BaseReference, hook, lambda *_: None)
    for hook in ("on_train_epoch_end", "on_validation_epoch_end"):
        monkeypatch.setattr(EvidenceLog, hook, lambda *_: None)
    muted = fit(tmp_path, *NOISY)
    assert not (muted / "figures").exists()
    assert same_weights(noisy, muted)
    for key in ("validation/loss", "train/loss"):
        assert [one[key] for one in history(noisy) if key in one] == [one[key] for one in history(muted) if key in one]


def test_the_training_split_is_shown_when_asked_for(noisy):
    table = routing(noisy, "train")
    assert (table[table["scope"] == "answer"].groupby("layer")["tokens"].first() == 64).all()
    assert all((noisy / "figures" / f"train_{name}.png").is_file() for name in FIGURES)
    shown = [line for line in history(noisy) if "train/entropy_topk" in line]
    assert len(shown) == 2
    keys = {key for line in history(noisy) for key in line if key.startswith("train/")}
    assert keys == {"train/loss", "train/accuracy"} | {f"train/{key}" for key in HISTORY[2:]}


@pytest.mark.slow
def test_a_fit_that_goes_on_reads_the_reference_back(fit, tmp_path, monkeypatch):
    power_cut(6, lambda: fit(tmp_path, "--test_after_fit", "false"))
    drawn = []
    monkeypatch.setattr(base_reference, "base_answers", lambda *_: pytest.fail("evaluated again"))
    real = evidence_log.evidence_figures
    monkeypatch.setattr(evidence_log, "evidence_figures", lambda *args: (drawn.append(args[2]), real(*args))[1])
    run = fit(tmp_path, "--test_after_fit", "false")
    assert drawn
    assert all(reference is not None for reference in drawn)
    assert sum("base_validation/accuracy" in line for line in history(run)) == 1


def test_without_validation_there_is_no_reference(fit, tmp_path):
    run = fit(tmp_path, "--trainer.limit_val_batches", "0", "--test_after_fit", "false", "--trainer.max_epochs", "1")
    assert not (run / "routing").exists()
