"""Losses that know the training questions one by one, through the whole program: the same bits, and training alone."""

import json

import pytest
from tiny_runs import TINY, history, only_run, same_weights, weights

from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule

LOSSES = (*(pytest.param(name, marks=pytest.mark.slow) for name in ("oracle_distillation", "manifold")), "route_regret")


@pytest.mark.parametrize("name", LOSSES)
def test_a_fit_has_the_same_bits_again_and_its_loss_is_logged(name, tmp_path):
    argv = ["fit", *TINY, "--config", f"configs/losses/{name}.yaml", "--model.layers", "last-2"]
    for folder in "ab":
        assert main([*argv, "--trainer.log_every_n_steps", "1", "--runs_root", str(tmp_path / folder)]) == 0
    runs = [only_run(tmp_path / folder) for folder in "ab"]
    assert same_weights(*runs)
    logged = {key: value for line in history(runs[0]) for key, value in line.items()}
    loss = {"oracle_distillation": "oracle"}.get(name, name)
    assert logged[f"train/loss_{loss}_unscaled"] > 0


def test_a_guard_around_a_head_trains_what_the_head_would_alone(tmp_path):
    words = [
        "fit",
        *TINY,
        "--config",
        "configs/losses/manifold.yaml",
        "--trainer.max_epochs",
        "2",
        "--optimizer.lr",
        "0.05",
    ]
    guard = ["--model.head", "Guard", "--model.head.head", "RetunedHead", "--model.head.quantile", "0.3"]
    for folder, head in (("alone", []), ("guarded", guard)):
        assert main([*words, *head, "--test_after_fit", "false", "--runs_root", str(tmp_path / folder)]) == 0
    alone, guarded = (weights(only_run(tmp_path / folder)) for folder in ("alone", "guarded"))
    assert alone
    assert all(guarded[name].equal(value) for name, value in alone.items())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.slow
def test_at_scope_all_they_look_at_the_answer_position(name, tmp_path, capsys):
    argv = ["fit", *TINY, "--config", f"configs/losses/{name}.yaml", "--model.layers", "last-2", "--model.scope", "all"]
    few = ["--data.limit_train", "16", "--runs_root", str(tmp_path)]
    assert main([*argv, *few]) == 2
    assert "scope answer" in capsys.readouterr().err
    loss = {"oracle_distillation": "oracle"}.get(name, name)
    assert main([*argv, *few, f"--model.losses.{loss}.scope", "answer"]) == 0


def test_nothing_but_training_questions_is_asked_before_training(tmp_path, monkeypatch):
    asked, loader = [], QuizDataModule.loader

    def watched(self, name):
        asked.append(name)
        return loader(self, name)

    monkeypatch.setattr(QuizDataModule, "loader", watched)
    named = {"oracle": "OracleDistillationLoss", "manifold": "ManifoldLoss", "routes": "RouteRegretLoss"}
    losses = json.dumps({f"model.losses.{name}": kind for name, kind in named.items()})
    argv = ["fit", *TINY, "--config", losses, "--model.layers", "last-2", "--trainer.limit_val_batches", "0"]
    assert main([*argv, "--test_after_fit", "false", "--runs_root", str(tmp_path)]) == 0
    assert set(asked) == {"train"}


def test_route_regret_falls_and_moves_the_last_router_alone(tmp_path):
    """It is the only loss that counts; a head on the layer below keeps the bits it began with."""
    argv = ["fit", *TINY, "--config", "configs/losses/route_regret.yaml", "--model.layers", "last-2"]
    words = ["--trainer.log_every_n_steps", "1", "--test_after_fit", "false"]
    for epochs in ("1", "4"):
        root = str(tmp_path / epochs)
        assert main([*argv, *words, "--trainer.max_epochs", epochs, "--runs_root", root]) == 0
    short, long = (only_run(tmp_path / epochs) for epochs in ("1", "4"))
    assert weights(short)["layers.2.weight"].equal(weights(long)["layers.2.weight"])
    assert not weights(short)["layers.3.weight"].equal(weights(long)["layers.3.weight"])
    losses = [line["train/loss_route_regret_unscaled"] for line in history(long) if "train/loss_route_regret" in line]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
