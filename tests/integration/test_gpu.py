"""A run on a CUDA GPU comes to what it comes to on the CPU; without a GPU these tests are left out."""

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_runs import QUIET, TINY, answers, manifest, weights

from moe_tune.cli.main import main
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.tuner.router_tuner import RouterTuner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: torch.cuda.is_available() is false"),
]

# Plain gradient descent: AdamW divides by the size of gradients that are next to nothing, and enlarges rounding.
DESCENT = ["--optimizer", "torch.optim.SGD", "--optimizer.lr", "3.0"]
SPLITS = ("test", "test_nano_textbook")


def on(accelerator, root, name):
    """Return the words of a run on a device, with prompt caches of its own: the devices would share them."""
    return ["--trainer.accelerator", accelerator, "--model.answer_path.folder", str(root / f"{name}-prompts")]


def different_letters(run, other):
    """Return how many of the questions of both test splits got another letter."""
    pairs = [(answers(run, split).set_index("id"), answers(other, split).set_index("id")) for split in SPLITS]
    return sum(int((one["prediction"] != two["prediction"][one.index]).sum()) for one, two in pairs)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, fit):
    """Return the run directories of one fit on both devices."""
    root = tmp_path_factory.mktemp("devices")
    return {one: fit(root / one, *DESCENT, *on(one, root, one)) for one in ("cpu", "gpu")}


def test_a_fit_comes_to_the_same_heads_and_letters(fitted):
    assert manifest(fitted["gpu"])["status"] == "finished"
    trained, expected = weights(fitted["gpu"]), weights(fitted["cpu"])
    assert trained.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(trained[name], value, atol=1e-3, rtol=0)
    assert different_letters(fitted["gpu"], fitted["cpu"]) <= 2


@pytest.mark.parametrize(
    "way",
    [
        ["--model.answer_path.use", "never"],
        ["--model.answer_path.limit_gb", "0.000001", "--model.answer_path.above_limit", "stream"],
        ["--model.answer_path.use", "trunk", "--model.layers", "last-2"],
        ["--data.few_shot", "2"],
        ["--trainer.precision", "bf16-mixed"],
        ["--config", "configs/head/accuracy_bias.yaml"],
        ["--config", "configs/head/dense_mixer.yaml", "--model.losses.balance", "LoadBalanceLoss"],
        ["--config", "configs/peft/attention.yaml", "--model.scope", "all"],
    ],
    ids=["full prompts", "streamed", "trunk", "few-shot", "bf16", "calibrated", "own gradient", "LoRA"],
)
def test_every_way_of_a_run_ends(way, fitted, fit, tmp_path):
    run = fit(tmp_path / "runs", *DESCENT, *on("gpu", tmp_path, "own"), *way)
    assert manifest(run)["status"] == "finished"
    if way[1] in ("never", "0.000001"):  # other ways to the same function
        assert different_letters(run, fitted["gpu"]) <= 2


def test_an_analysis_counts_the_same(tmp_path):
    experts = {}
    for one in ("cpu", "gpu"):
        words = [*TINY, *on(one, tmp_path, one), "--shots", "0", "--sensitivity", "16", "--draws", "100"]
        assert main(["analyze", *words, "--out", str(tmp_path / one)]) == 0
        experts[one] = pd.read_parquet(tmp_path / one / "experts.parquet")
    keys = ["scope", "layer", "expert"]
    counts, expected = (experts[one].set_index(keys)["count"] for one in ("gpu", "cpu"))
    assert int((counts - expected).abs().sum()) <= 8, "an expert or two at a near tie"


def test_the_model_stays_on_the_gpu_between_stages():
    """Lightning would move gigabytes of weights to the CPU after each."""
    tuner, trainer = RouterTuner(), Trainer(accelerator="gpu", devices=1, **QUIET)
    trainer.validate(tuner, QuizDataModule(NanoQuiz(), "nano_quiz", limit_validation=32), verbose=False)
    assert tuner.gated.device.type == tuner.device.type == "cuda"
    assert tuner.to("cpu").gated.device.type == "cpu"
