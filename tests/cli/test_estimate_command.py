"""The verb ``estimate``: what it prints, and that it neither loads a model nor writes."""

import json
import re

import pytest

from moe_tune.base.errors import ConfigError, DataError, ServiceError
from moe_tune.cli import estimate
from moe_tune.data.module import QuizDataModule
from moe_tune.models.base_model import BaseModel
from moe_tune.models.shapes import model_shape
from moe_tune.planning.split_sizes import splits_of

OLMOE = ["--config", "configs/olmoe_mmlu.yaml", "--machine", "H100"]
GIVEN = ["--questions", "1000", "--prompt_tokens", "123"]


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch):
    def refuse(self):
        raise AssertionError("an estimate loads no model")

    monkeypatch.setattr(BaseModel, "load", refuse)


def main(argv):
    return estimate.main(argv, {})


def report(capsys, *argv):
    assert main([*argv, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_olmoe_on_a_gpu_without_the_hub(capsys):
    told = report(capsys, *OLMOE, *GIVEN)
    assert told["parameters"]["total"] == 6_919_161_856
    assert told["parameters"]["trainable"] == 5 * 64 * 2048
    assert told["memory_bytes"]["weights"] == 2 * 6_919_161_856
    assert told["memory_bytes"]["fits"]
    # 122 tokens before the answer, 5 layers of keys and values; what enters layer 11 and what 11 routers read.
    assert told["disk_bytes"]["train"] == 1000 * (122 * 5 * 2 * 2048 * 2 + 12 * 2048 * 2)
    assert told["seconds"]["epoch_answer_path"] < told["seconds"]["epoch_full_prompts"]
    assert told["answer_path"]["train"].startswith("cached")


def test_published_sizes_stand_in_for_a_dataset_that_is_not_here(capsys, monkeypatch):
    def unreachable(self, split):
        raise ServiceError("offline")

    monkeypatch.setattr("moe_tune.data.hub_mmlu.HubMMLU.rows", unreachable)
    told = report(capsys, *OLMOE)
    counts = {name: split["questions"] for name, split in told["questions"].items()}
    assert counts == {"train": 99_842, "validation": 1_531, "test": 14_042}
    assert told["answer_path"]["train"].startswith("sample")
    assert told["answer_path"]["test"].startswith("streamed")


@pytest.mark.parametrize(
    ("setting", "start"),
    [
        (["--model.answer_path.use", "never"], "full prompts: answer_path.use never"),
        (["--model.scope", "all"], "full prompts: scope all"),
        (["--config", "configs/peft/attention.yaml"], "full prompts: a LoRA"),
        (["--config", "configs/losses/balance_z.yaml", "--model.losses.z.scope", "all"], "full prompts: loss z"),
        (["--config", "configs/losses/balance_z.yaml"], "cached"),
        (["--model.answer_path.use", "trunk"], "trunk cache"),
        (["--model.answer_path.use", "trunk", "--config", "configs/peft/attention.yaml"], "full prompts"),
        (["--model.answer_path.limit_gb", "1", "--model.answer_path.above_limit", "stream"], "streamed"),
        (["--model.answer_path.limit_gb", "1", "--model.answer_path.above_limit", "trunk"], "trunk cache"),
        (["--model.answer_path.limit_gb", "0.1", "--model.answer_path.above_limit", "trunk"], "full prompts"),
    ],
)
def test_the_way_of_training_is_told(setting, start, capsys):
    assert report(capsys, *OLMOE, *GIVEN, *setting)["answer_path"]["train"].startswith(start)


LORAS = {
    # A and B of each, in 16 layers: 2 weights of attention, the router, the input weights of 64 experts beside routers.
    "attention": 16 * 2 * 8 * (2048 + 2048),
    "router": 16 * 8 * (2048 + 64),
    "experts": 16 * 64 * 2 * (2048 + 2 * 1024) + 5 * 64 * 2048,
}


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_is_counted(name, capsys):
    told = report(capsys, *OLMOE, *GIVEN, "--config", f"configs/peft/{name}.yaml")
    assert told["parameters"]["trainable"] == LORAS[name]


def test_what_a_fit_refuses_is_refused():
    with pytest.raises(ConfigError, match="a LoRA changes every token"):
        main([*OLMOE, *GIVEN, "--config", "configs/peft/attention.yaml", "--model.answer_path.use", "always"])


def test_a_sample_of_prompts_tells_the_tokens_of_all(monkeypatch):
    from moe_tune.data.nano_quiz import NanoQuiz

    base = BaseModel("nano")
    shape = model_shape(base)

    def quiz():
        return QuizDataModule(NanoQuiz(), "nano_quiz", limit_train=900, limit_validation=900, limit_test=900)

    sampled = splits_of(quiz(), base, shape, None, None)
    monkeypatch.setattr("moe_tune.planning.split_sizes.SAMPLE", 10**9)
    counted = splits_of(quiz(), base, shape, None, None)
    for name, split in counted.items():
        assert sampled[name].questions == split.questions
        assert sampled[name].tokens == pytest.approx(split.tokens, rel=0.05)
        assert sampled[name].kept == pytest.approx(split.kept, rel=0.1)


def test_text_names_the_machine_and_where_figures_come_from(capsys, tmp_path, monkeypatch):
    before = {*tmp_path.iterdir()}
    assert main([*OLMOE, *GIVEN]) == 0
    out = capsys.readouterr().out
    for words in ("data sheet", "published shape", "6,919,161,856", "as given", "fits"):
        assert words in out
    small = ["--machine", "H100", "--model.base.dtype=bfloat16", "--questions", "1", "--prompt_tokens", "9"]
    assert main(["--config", "configs/nano.yaml", *small]) == 0
    assert re.search(r"disk cache train +8\.32 kB", capsys.readouterr().out), "a small cache is not 0.00 GB"
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "fault", "words"),
    [
        ([*OLMOE[:2], *GIVEN, "--machine", "H1000"], ConfigError, "Did you mean H100?"),
        ([*OLMOE, "--questions", "0"], ConfigError, "at least 1"),
        ([*OLMOE, *GIVEN, "--model.haed", "X"], ConfigError, "Did you mean model.head?"),
        ([*OLMOE, *GIVEN, "--model.layers", "[16]"], ConfigError, "distinct MoE layers"),
        (["--config", "configs/nano.yaml", "--data.max_length", "5"], DataError, "5"),
    ],
)
def test_mistakes_have_a_remedy(argv, fault, words):
    with pytest.raises(fault) as came:
        main(argv)
    assert words in str(came.value)
