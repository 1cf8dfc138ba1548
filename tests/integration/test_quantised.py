"""A run on quantised experts goes the whole way, and is a run of another base model."""

import pytest
from tiny_runs import manifest

from moe_tune.base.errors import DataError, ModelError
from moe_tune.compare.runs import load_run, require_same_base
from moe_tune.settings.running import run

COMMON = [
    *("--config", "configs/nano.yaml", "--config", "configs/logger/none.yaml", "--config", "configs/trainer/cpu.yaml"),
    *("--data.limit_train", "32", "--data.limit_validation", "16", "--data.limit_test", "16"),
    *("--data.test_protocols", "[]", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
    *("--model.base.experts_implementation", "auto"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        bits: run(["fit", *COMMON, "--runs_root", str(root), "--model.base.quantise", bits]).path
        for bits in ("null", "8", "4")
    }


def test_it_is_fitted_on_kept_prompts_by_the_packed_implementation(runs):
    for bits in ("8", "4"):
        told = manifest(runs[bits])
        assert told["status"] == "finished"
        assert told["experts_implementation"] == "packed"
    hashes = {manifest(one)["base"]["frozen_sha256"] for one in runs.values()}
    assert len(hashes) == len({one.name for one in runs.values()}) == 3


def test_its_checkpoint_is_tested_again_and_fits_no_other_base_model(runs):
    checkpoint = ["--ckpt_path", str(runs["4"] / "checkpoints" / "best.ckpt")]
    assert run(["validate", *checkpoint]).path.is_dir()
    with pytest.raises(ModelError, match="expected a checkpoint for nano"):
        run(["validate", *checkpoint, "--model.base.quantise", "8"])


def test_it_is_not_compared_with_a_run_of_another_value(runs):
    loaded = {bits: load_run(path) for bits, path in runs.items()}
    assert require_same_base(loaded["4"], loaded["4"]) == []
    for one, other in (("null", "4"), ("4", "8"), ("8", "null")):
        with pytest.raises(DataError, match=r"model\.base\.quantise"):
            require_same_base(loaded[one], loaded[other])
