"""Runs that were trained before, as heads: their mean, a guard around one of them, and what is logged of it."""

import json

import pytest
from tiny_runs import TINY, answers, history, manifest, only_run

from moe_tune.cli.main import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folders of two runs that differ in their seed alone."""
    runs = []
    for seed in ("1", "2"):
        root = tmp_path_factory.mktemp(f"seed{seed}")
        assert main(["fit", *TINY, "--model.layers=last-2", f"--seed_everything={seed}", "--runs_root", str(root)]) == 0
        runs.append(only_run(root))
    return runs


def mean_of(*runs, within=""):
    return [f"--model.head{within}=MeanOfRuns", f"--model.head{within}.runs={json.dumps([str(one) for one in runs])}"]


@pytest.mark.slow
def test_the_mean_of_one_run_answers_as_that_run(trained, tmp_path):
    assert main(["fit", *TINY, "--model.layers=last-2", *mean_of(trained[0]), "--runs_root", str(tmp_path)]) == 0
    run = only_run(tmp_path)
    assert manifest(run)["trainable_parameters"] == 0
    came, wanted = answers(run), answers(trained[0])
    assert came["prediction"].equals(wanted["prediction"])
    assert main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    assert answers(run)["prediction"].equals(came["prediction"])


def test_a_guard_around_a_run_logs_how_often_it_acts_and_leaves_other_prompts_alone(trained, tmp_path):
    words = ["--model.layers=last-2", "--model.head=Guard", *mean_of(*trained, within=".head")]
    assert main(["fit", *TINY, *words, "--runs_root", str(tmp_path)]) == 0
    run = only_run(tmp_path)
    logged = {key: value for line in history(run) for key, value in line.items()}
    assert logged["test/acting_share"] > 0.5
    assert logged["test_nano_textbook/acting_share"] == 0
    base, tuned = answers(run, "test_nano_textbook.base"), answers(run, "test_nano_textbook")
    assert base["prediction"].equals(tuned["prediction"])
    assert manifest(run)["calibration"]["questions"] == 64


def test_runs_of_other_layers_are_refused(trained, tmp_path, capsys):
    words = ["--model.layers=last-3", *mean_of(*trained), "--runs_root", str(tmp_path)]
    assert main(["fit", *TINY, *words]) == 2
    assert "layers of [2, 3] but got 1" in capsys.readouterr().err
