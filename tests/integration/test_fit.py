"""A fit leaves a complete, small, truthful run directory, and can be run again from it."""

import shutil

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file
from tiny_runs import HISTORY, answers, history, manifest, only_run, openings, power_cut, routing, same_weights

from moe_tune.cli.main import main
from moe_tune.models.base_model import NANO as NANO_FOLDER
from moe_tune.runs.best_epoch import best_checkpoint, validation_summary
from moe_tune.runs.checkpoint import seen_by
from moe_tune.settings.logged import LOGGED


def without_time(run):
    return [{key: value for key, value in line.items() if key != "time"} for line in history(run)]


def test_history_holds_the_few_keys_every_epoch_and_test_once(finished):
    validated = [line for line in history(finished) if "validation/accuracy" in line]
    assert len(validated) == 2
    assert all({f"validation/{key}" for key in HISTORY} <= set(line) for line in validated)
    tested = [line for line in history(finished) if "test/accuracy" in line]
    assert len(tested) == 1
    assert {f"{split}/{key}" for split in ("test", "test_nano_textbook") for key in HISTORY} <= set(tested[0])


def test_records_recompute_the_history(finished):
    tested = next(line for line in history(finished) if "test/accuracy" in line)
    for split in ("test", "test_nano_textbook"):
        questions = answers(finished, split)
        assert len(questions) == 64
        assert questions["id"].is_unique
        assert (questions["gold"] == questions["prediction"]).mean() == pytest.approx(tested[f"{split}/accuracy"])
        assert (
            questions["log_probs"].map(lambda one: abs(sum(2.718281828459045**value for value in one) - 1)).max() < 1e-5
        )
        answer = routing(finished, split).query("scope == 'answer'")
        assert (answer.groupby("layer")["count"].sum() == 64 * 8).all()
        assert (answer["count"] == 0).mean() == pytest.approx(tested[f"{split}/never_activated_share"])
        per_layer = answer.groupby("layer").first()
        assert per_layer["entropy_topk_mean"].mean() == pytest.approx(tested[f"{split}/entropy_topk"])
        by_subject = routing(finished, f"{split}_by_subject")
        assert by_subject["questions"].sum() == answer["count"].sum()


def test_checkpoint_holds_the_heads_alone(finished):
    for name in ("last.ckpt", "best.ckpt"):
        folder = finished / "checkpoints" / name
        assert set(load_file(folder / "router.safetensors")) == {f"layers.{layer}.weight" for layer in range(4)}
        assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000


def test_manifest_proves_that_the_rest_is_frozen(finished):
    told = manifest(finished)
    assert told["status"] == "finished"
    assert told["trainable_parameters"] == 4 * 64 * 64
    assert told["frozen"]["sha256_before_and_after"] == told["base"]["frozen_sha256"]
    assert told["data"]["splits"]


def test_every_opening_of_the_test_split_is_recorded(finished):
    told = [(one["split"], one["verb"], one["questions"]) for one in openings(finished)]
    assert told[:2] == [("test", "test", 64), ("test_nano_textbook", "test", 64)]


def test_a_finished_fit_is_not_run_again(finished, fit, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert fit(finished.parent) == finished
    assert "already complete" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_one_seed_one_history_also_from_the_saved_config(finished, fit, tmp_path):
    words = ["fit", "--config", str(finished / "config.yaml"), "--runs_root", str(tmp_path / "again")]
    assert main(words) == 0
    assert without_time(only_run(tmp_path / "again")) == without_time(finished)
    other = fit(tmp_path / "other", "--seed_everything", "1", "--trainer.max_epochs", "1", "--test_after_fit", "false")
    validated = [[line for line in without_time(run) if "validation/loss" in line] for run in (finished, other)]
    assert validated[0][0] != validated[1][0]


def test_validate_test_and_predict_on_a_checkpoint(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    last = str(run / "checkpoints" / "best.ckpt")
    before, recorded = answers(run), manifest(run)["data"]
    (run / "questions" / "test.parquet").unlink()
    assert main(["validate", "--ckpt_path", last]) == 0
    assert main(["test", "--ckpt_path", last]) == 0
    assert manifest(run)["data"] == recorded, "a later verb keeps what earlier ones recorded"
    assert main(["predict", "--ckpt_path", last]) == 0
    after = answers(run)
    pd.testing.assert_frame_equal(before, after)
    predicted = pd.read_parquet(run / "predictions.parquet")
    assert (predicted.set_index("id")["prediction"] == after.set_index("id")["prediction"]).all()


def test_the_command_line_wins_over_the_checkpoint(finished, tmp_path, capsys):
    last = str(finished / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", last, "--data.limit_test", "8", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["limit_test"] == 8
    assert config["data"]["limit_train"] == 64


def test_what_a_manifest_does_not_describe_gets_a_directory_of_its_own(finished, tmp_path):
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    records = (run / "questions" / "test.parquet").read_bytes()
    told = manifest(run)
    best, last = (str(run / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt"))
    root = ["--runs_root", str(tmp_path)]
    assert main(["test", "--ckpt_path", best, "--data.limit_test", "8", *root]) == 0
    assert main(["test", "--ckpt_path", last, *root]) == 0
    assert main(["validate", "--ckpt_path", best, "--model.scope", "all", *root]) == 0
    assert (run / "questions" / "test.parquet").read_bytes() == records
    assert manifest(run) == told
    others = {path.name: manifest(path) for path in tmp_path.glob("*-test")}
    assert len(others) == 2
    assert all(other["status"] == "evaluated" for other in others.values())


def test_a_fresh_run_that_cannot_start_leaves_the_old_one(finished, tmp_path, capsys):
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    argv = ["fit", "--config", str(run / "config.yaml"), "--runs_root", str(tmp_path), "--fresh", "true"]
    assert main([*argv, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 2
    assert "outside the run" in capsys.readouterr().err
    assert (run / "manifest.json").read_bytes() == (finished / "manifest.json").read_bytes()


def test_a_checkpoint_of_another_base_model_is_refused(finished, tmp_path, capsys):
    last = str(finished / "checkpoints" / "last.ckpt")
    other = tmp_path / "other_nano"
    shutil.copytree(NANO_FOLDER, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.001
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert main(["test", "--ckpt_path", last, "--model.base.path", str(other), "--runs_root", str(tmp_path)]) == 4
    assert "fingerprint" in capsys.readouterr().err


def test_a_checkpoint_of_another_head_is_refused(finished, tmp_path, capsys):
    last = str(finished / "checkpoints" / "last.ckpt")
    argv = ["test", "--ckpt_path", last, "--model.head", "TemperatureHead", "--model.head.mode", "learned"]
    assert main([*argv, "--runs_root", str(tmp_path)]) == 4
    assert "missing ['layers.0.theta'" in capsys.readouterr().err


def test_an_interrupted_fit_ends_where_an_undisturbed_one_does(finished, fit, tmp_path):
    power_cut(6, lambda: fit(tmp_path))
    resumed = fit(tmp_path)
    assert same_weights(resumed, finished)
    assert without_time(resumed) == without_time(finished)


WITHIN = ("accumulate_grad_batches=2", "val_check_interval=3", "check_val_every_n_epoch=null", "max_epochs=3")


@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param(("max_epochs=4",), marks=pytest.mark.slow),
        WITHIN,
        pytest.param(("val_check_interval=0.5",), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_the_summary_is_that_of_the_validation_whose_checkpoint_is_kept(trainer, cut, fit, tmp_path):
    words = [*(f"--trainer.{one}" for one in trainer), "--optimizer.lr", "0.03", "--test_after_fit", "false"]
    if cut:
        power_cut(3, lambda: fit(tmp_path, *words))
    run = fit(tmp_path, *words)
    rows = [row for row in history(run) if "validation/accuracy" in row]
    best = max(rows, key=lambda row: row["validation/accuracy"])  # of several the first, as the checkpoint is
    summary = validation_summary(run)
    for key in ("validation/accuracy", "validation/loss"):
        assert (summary[key], summary[f"last/{key}"]) == (best[key], rows[-1][key])
    _, validations = seen_by(best_checkpoint(run))
    assert validations == rows.index(best) + 1


def test_what_a_sweep_may_choose_by_is_what_a_run_logs(finished):
    keys = {key for line in history(finished) for key in line if key.startswith("validation/")}
    assert keys == {f"validation/{name}" for name in LOGGED}


def test_a_fit_that_begins_with_another_runs_checkpoint_is_another_run(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / finished.name)
    last = tmp_path / finished.name / "checkpoints" / "last.ckpt"
    plain = ["fit", "--config", str(finished / "config.yaml"), "--trainer.max_epochs=3", f"--runs_root={tmp_path}"]
    begun = [*plain, "--ckpt_path", str(last)]
    assert main([*begun, "--optimizer.lr=0.5"]) == 2
    assert "lr" in capsys.readouterr().err
    assert main(begun) == 0
    (run,) = tmp_path.glob("*-from-*")
    assert manifest(run)["started_from"] == str(last)
    capsys.readouterr()
    assert main(plain) == 0
    assert "already complete" not in capsys.readouterr().out
    told = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(told.replace('"finished"', '"started"'))
    assert main(begun) == 0
    assert "already complete" not in capsys.readouterr().out
    assert main(begun) == 0
    assert "already complete" in capsys.readouterr().out
