"""The verb ``trace``: a model's or a run's routing of one prompt."""

import pandas as pd
import pytest

from moe_tune.cli.main import main

NANO = ["trace", "--config", "configs/nano.yaml"]


def test_a_configuration_is_traced_before_its_fit(tmp_path, capsys):
    sharp = ["--config", "configs/head/temperature.yaml", "--model.head.tau", "0.5", "--model.scope", "all"]
    assert main([*NANO, *sharp, "--out", str(tmp_path), "The capital of"]) == 0
    assert "entropy, tuned" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "trace.csv")
    assert set(rows["router"]) == {"base", "tuned"}
    assert (rows.groupby("router")["entropy"].mean().loc[["tuned", "base"]].diff().iloc[1]) > 0


def test_a_head_that_changes_nothing_before_a_fit_has_no_column(tmp_path, capsys):
    assert main([*NANO, "--out", str(tmp_path), "The capital of"]) == 0
    told = capsys.readouterr().out
    assert "entropy, tuned" not in told
    assert "tuned: left out, before a fit RetunedHead" in told


def test_a_run_is_traced_by_its_name(fit, tmp_path, monkeypatch, capsys):
    run = fit(tmp_path / "runs", "--optimizer.lr", "0.01", "--test_after_fit", "false")
    monkeypatch.chdir(tmp_path)
    assert main(["trace", run.name, "The capital of"]) == 0
    assert (run / "trace" / "trace.png").is_file()
    assert main(["trace", run.name, "The capital of", "--out", "elsewhere"]) == 0
    assert (tmp_path / "elsewhere" / "trace.html").is_file()
    assert main(["trace", f"{run.name}x", "The capital of"]) == 3
    assert run.name in capsys.readouterr().err  # did you mean


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "Hint: python -m moe_tune trace RUN"),
        (NANO[1:], 2, "a prompt"),
        ([*NANO[1:], "--config", "configs/head/accuracy_bias.yaml", "Hello"], 2, "fit it first"),
        (["no/such/run", "Hello"], 3, "expected a run directory or a checkpoint"),
    ],
)
def test_mistakes_are_told(words, code, said, capsys):
    assert main(["trace", *words]) == code
    assert said in capsys.readouterr().err
