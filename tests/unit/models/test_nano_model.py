"""The shipped nano OLMoE is a stock, small Hugging Face folder that knows its quiz, and its recipe is deterministic."""

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, OlmoeConfig, OlmoeForCausalLM

from moe_tune.data.nano_quiz import NanoQuiz
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import LETTERS, number_questions
from moe_tune.models.base_model import BaseModel

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "moe_tune" / "models" / "nano"
LAYOUTS = ("nano_textbook", "nano_quiz")


def ask(split, **options):
    rows = [row.values for row in NanoQuiz(**options).rows(split)]
    return number_questions((row["subject"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return OlmoeForCausalLM.from_pretrained(FOLDER, experts_implementation="eager").eval()


@pytest.fixture
def recipe(monkeypatch):
    """Give the modules of the pretraining experiment, and leave no trace of them."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "nano_olmoe"))
    threads = torch.get_num_threads()
    names = ("pretrain", "evidence", "nano_tokenizer")
    yield {name: importlib.import_module(name) for name in names}
    torch.set_num_threads(threads)
    for name in names:
        del sys.modules[name]


def accuracy(model, tokenizer, layout, questions):
    protocol = load_protocol(layout)
    batch = tokenizer([protocol.prompt(question) for question in questions], return_tensors="pt", padding=True)
    last = batch["attention_mask"].sum(1) - 1
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    letters = logits[torch.arange(len(last)), last][:, tokenizer.convert_tokens_to_ids(list(LETTERS[:4]))]
    return (letters.argmax(1) == torch.tensor([question.answer for question in questions])).float().mean().item()


def test_folder_is_small_and_complete():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 8 * 2**20
    assert {path.name for path in FOLDER.iterdir()} >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_config_is_stock_olmoe():
    config = AutoConfig.from_pretrained(FOLDER)
    assert type(config) is OlmoeConfig
    assert config.architectures == ["OlmoeForCausalLM"]
    assert (config.num_experts, config.num_experts_per_tok, config.hidden_size) == (64, 8, 64)
    assert config.num_hidden_layers >= 4
    assert not config.output_router_logits
    assert not config.norm_topk_prob


def test_weights_fit_the_stock_class_exactly():
    model, info = OlmoeForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("layout", [*LAYOUTS, "lm_eval"])
def test_no_question_holds_an_unknown_word(tokenizer, layout):
    protocol = load_protocol(layout)
    examples = ask("dev")[:2]
    for split in ("train", "validation", "test", "dev"):
        prompts = [protocol.prompt(question, examples) for question in ask(split, train=1024)]
        assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(prompts)["input_ids"])


@pytest.mark.parametrize("layout", [*LAYOUTS, "lm_eval"])
def test_each_letter_is_one_token_of_its_own_at_the_end(tokenizer, layout):
    protocol = load_protocol(layout)
    for question in ask("dev"):
        prompt = protocol.prompt(question)
        ids = tokenizer(prompt)["input_ids"]
        ends = [tokenizer(prompt + letter)["input_ids"] for letter in protocol.letters(4)]
        assert [end[:-1] for end in ends] == [ids] * 4
        assert [end[-1] for end in ends] == tokenizer.convert_tokens_to_ids(list("ABCD"))
        assert len({end[-1] for end in ends}) == 4


def test_special_tokens_are_known_to_model_and_tokenizer(tokenizer, model):
    special = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id)
    assert len(set(special)) == 3
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)


def test_model_knows_the_textbook_layout_and_stumbles_over_the_quiz_layout(model, tokenizer):
    questions = ask("test", test=512)
    assert accuracy(model, tokenizer, "nano_textbook", questions) >= 0.80
    assert 0.25 < accuracy(model, tokenizer, "nano_quiz", questions) <= 0.50


def test_shipped_tokenizer_is_the_one_the_recipe_builds(recipe, tokenizer):
    assert recipe["nano_tokenizer"].build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_two_pretraining_runs_give_the_same_bits(recipe, tokenizer, tmp_path):
    pretrain = recipe["pretrain"]
    hashes = []
    for name in ("first", "second"):
        torch.rand(3)  # the state of the global generator must not matter
        trained = pretrain.pretrain(pretrain.Recipe(steps=3, batch=32), tokenizer)
        trained.save_pretrained(tmp_path / name)
        hashes.append(hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest())
    assert hashes[0] == hashes[1]


def test_another_seed_and_architecture_give_another_model_that_loads(recipe, tokenizer, tmp_path):
    pretrain, gates = recipe["pretrain"], []
    for seed, architecture in ((1, "olmoe"), (2, "olmoe"), (1, "qwen3_moe")):
        out = tmp_path / f"{architecture}{seed}"
        options = {"steps": 2, "batch": 8, "seed": seed, "architecture": architecture}
        pretrain.pretrain(pretrain.Recipe(**options), tokenizer).save_pretrained(out)
        model, _ = BaseModel(str(out)).load()
        assert model.config.model_type == architecture
        gates.append(model.model.layers[0].mlp.gate.weight)
        assert gates[-1].shape == (64, 64)
    assert not any(torch.equal(gates[0], other) for other in gates[1:])


def test_measured_accuracy_agrees_with_the_models_own_forward(recipe, model, tokenizer):
    questions = ask("validation", validation=64)
    for layout in LAYOUTS:
        measured = recipe["evidence"].measure(model, tokenizer, questions, load_protocol(layout))
        assert measured["accuracy"] == pytest.approx(accuracy(model, tokenizer, layout, questions))
        for answer, everywhere in zip(*measured["never_activated_share"].values(), strict=True):
            assert answer >= everywhere
