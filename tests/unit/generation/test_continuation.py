"""Continuations: those of transformers, by heads at their scope, the same from the same seed; and where two part."""

import json

import pytest
import torch

from moe_tune import BaseModel, GatedModel
from moe_tune.analysis.prompt_trace import trace_tokens
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.encoding import text_tokens
from moe_tune.generation.continuation import Continuation, continuation, parted_text, shared_tokens
from moe_tune.generation.decoding import Decoding
from moe_tune.generation.prompts import encoded_prompts, read_prompts
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.retuned import RetunedHead

PROMPT, NEW = "What is 13 + 29?\nA. 42\nB. 3\nAnswer:", 12


@pytest.fixture(scope="module")
def base():
    return BaseModel("nano", experts_implementation="eager")


@pytest.fixture
def loaded(base):
    return base.load()


@pytest.fixture(scope="module")
def tokenizer(base):
    return base.load_tokenizer()


@pytest.fixture(scope="module")
def ids(tokenizer):
    return text_tokens(tokenizer, PROMPT)


def tuned(loaded, scope):
    gated = GatedModel(*loaded, RetunedHead(), "last-2", scope)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, weight in sorted(gated.trainable().items()):
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    return gated


def test_greedy_is_generate_of_the_stock_model(loaded, tokenizer, ids):
    row = torch.tensor([ids])
    stock = loaded[0].generate(row, attention_mask=torch.ones_like(row), max_new_tokens=NEW, do_sample=False)
    wanted = tuple(stock[0, len(ids) :].tolist())
    gated = GatedModel(*loaded, IdentityHead(), "all", "all")
    assert continuation(gated, tokenizer, ids, Decoding(NEW)).ids == wanted
    gated.detach()
    gated = tuned(loaded, "all")
    assert continuation(gated, tokenizer, ids, Decoding(NEW)).ids != wanted
    with gated.session(base_only=True):
        assert continuation(gated, tokenizer, ids, Decoding(NEW)).ids == wanted


def test_the_same_seed_gives_the_same_text_and_leaves_the_generator_alone(loaded, tokenizer, ids):
    gated, before = tuned(loaded, "answer"), torch.get_rng_state()
    texts = [continuation(gated, tokenizer, ids, Decoding(NEW, 1.0, seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.get_rng_state().equal(before)
    loaded[0].generation_config.update(top_k=1, repetition_penalty=9.0)  # no setting of the model's own counts
    assert continuation(gated, tokenizer, ids, Decoding(NEW, 1.0, 1)) == texts[0]
    cold = continuation(gated, tokenizer, ids, Decoding(NEW, 1e-4, 1))
    assert cold == continuation(gated, tokenizer, ids, Decoding(NEW))


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_a_trace_of_what_was_generated_predicts_it(loaded, tokenizer, ids, scope):
    """Heads act in the one pass on the tokens they acted on in generation, so that it gives the same next tokens."""
    gated = tuned(loaded, scope)
    said = continuation(gated, tokenizer, ids, Decoding(NEW))
    for place in range(1, NEW):
        whole = [*ids, *said.ids[:place]]
        seen = trace_tokens(gated, tokenizer, whole, len(ids), ("tuned",), likeliest=1)
        assert seen.continuations["token"].tolist() == [tokenizer.decode([said.ids[place]])]
        assert len(seen.tokens) == len(whole)


def test_scopes_are_told_apart(loaded, tokenizer, ids):
    gated = tuned(loaded, "answer")
    seen = trace_tokens(gated, tokenizer, [*ids, 5, 6], len(ids))
    changed = seen.table()["changed"].to_numpy()
    assert (changed[: len(ids) - 1] == 0).all()
    assert (changed[len(ids) - 1 :] > 0).all()


def test_where_two_part():
    one = Continuation((5, 6, 7), "")
    for other, shared in (((5, 6, 7), None), ((4,), 0), ((5, 6), 2), ((5, 6, 8, 9), 2), ((5, 6, 7, 8), 3), ((), 0)):
        assert shared_tokens(one, Continuation(other, "")) == shared
        assert shared_tokens(Continuation(other, ""), one) == shared


class Bytes:
    """A tokenizer of one byte a token."""

    def decode(self, ids, skip_special_tokens=False):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("text", ["plain", "né", "日本"])
def test_a_parted_text_is_the_whole_text_and_no_character_is_cut(text):
    said = Continuation(tuple(text.encode()), text)
    assert parted_text(said, None, Bytes()) == (text, "")
    for shared in range(len(said.ids) + 1):
        same, rest = parted_text(said, shared, Bytes())
        assert same + rest == text
        assert len(same.encode()) <= shared < len(same.encode()) + 4


@pytest.mark.parametrize(
    "values", [{"max_new_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"seed": -1}]
)
def test_a_decoding_out_of_range_is_refused(values):
    with pytest.raises(ConfigError, match="Hint"):
        Decoding(**values)


def test_prompts_of_files(tmp_path, tokenizer):
    wanted = ["The capital of", "What is 13?"]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfThe capital of\r\n\r\nWhat is 13?\r\n")  # as Windows writes it
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in wanted))
    assert read_prompts(tmp_path / "a.txt") == read_prompts(tmp_path / "a.jsonl") == wanted
    assert [len(one) for one in encoded_prompts(tokenizer, wanted, 8, 1024)] == [3, 4]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "x", "a.csv"),
        ("a.txt", "\n \n", "none"),
        ("a.jsonl", '{"prompt": "x"}\n{"text": "y"}\n', r"\['text'\] \(.*a.jsonl:2\)"),
        ("a.jsonl", "prompt\n", "a.jsonl:1"),
        ("a.jsonl", "[1]\n", "list"),
        ("a.txt", None, "No such file"),
    ],
)
def test_files_without_prompts_are_refused(name, text, said, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_prompts(tmp_path / name)
