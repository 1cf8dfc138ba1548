"""Every model type goes the whole way: fits at both scopes, resumed after a power cut, analysed, with a LoRA."""

import pytest
from found_models import ONE_OF_EACH, TYPES
from tiny_runs import TINY, only_run, power_cut, same_weights
from transformers import AutoModelForCausalLM

from moe_tune.cli.main import main
from moe_tune.models.base_model import NANO
from moe_tune.models.families import family_of
from moe_tune.models.family_row import families_table, family_row

EACH = [one if one in ONE_OF_EACH else pytest.param(one, marks=pytest.mark.slow) for one in TYPES]

UNTESTED = ("--test_after_fit", "false")


def fitted(model_type, root, *words):
    model = ["--model.base.path", "random", "--model.base.family", model_type, "--model.base.tokenizer", str(NANO)]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--data.eval_batch_size", "4"]
    # The reference kernels of linear attention are slow, and large.
    short += [word for split in ("validation", "test") for word in (f"--data.limit_{split}", "8")]
    assert main(["fit", *TINY, *model, *short, *words, "--runs_root", str(root)]) == 0
    return only_run(root)


@pytest.mark.parametrize("model_type", EACH)
def test_it_is_fitted_at_the_answer_and_analysed(model_type, tmp_path, capsys):
    run = fitted(model_type, tmp_path / "runs")
    few = ["--split", "validation", "--sensitivity", "0", "--draws", "160", "--data.limit_validation", "8"]
    assert main(["analyze", str(run), *few, "--out", str(tmp_path / "analysis")]) == 0
    assert (tmp_path / "analysis" / "report.html").is_file()


@pytest.mark.parametrize("model_type", EACH)
def test_a_fit_at_all_tokens_is_resumed_as_if_nothing_had_been(model_type, tmp_path):
    whole = fitted(model_type, tmp_path / "whole", "--model.scope", "all", *UNTESTED)
    power_cut(1, lambda: fitted(model_type, tmp_path / "cut", "--model.scope", "all", *UNTESTED))
    assert same_weights(fitted(model_type, tmp_path / "cut", "--model.scope", "all", *UNTESTED), whole)


@pytest.mark.parametrize("model_type", EACH)
def test_a_lora_on_its_experts_is_trained(model_type, tmp_path):
    family = family_of(model_type)
    family.moe_layers(AutoModelForCausalLM.from_config(family.tiny_config()))
    options = f"{{r: 2, target_parameters: ['{family.experts_path}.down_proj']}}"
    fitted(model_type, tmp_path / "runs", "--model.peft", options, *UNTESTED)


@pytest.mark.parametrize("model_type", EACH)
def test_the_table_says_of_it_what_is_so(model_type):
    assert family_row(model_type) in families_table()
