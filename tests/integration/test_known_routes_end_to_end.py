"""Losses that know the training questions one by one, through the whole program: the same bits, and training alone."""

import pytest
from tiny_runs import TINY, history, only_run, same_weights

from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule

LOSSES = (pytest.param("oracle_distillation", marks=pytest.mark.slow), "manifold")


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
    losses = '{"model.losses.oracle": "OracleDistillationLoss", "model.losses.manifold": "ManifoldLoss"}'
    argv = ["fit", *TINY, "--config", losses, "--model.layers", "last-2", "--trainer.limit_val_batches", "0"]
    assert main([*argv, "--test_after_fit", "false", "--runs_root", str(tmp_path)]) == 0
    assert set(asked) == {"train"}
