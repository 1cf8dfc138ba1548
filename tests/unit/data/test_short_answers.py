"""Short answers: what a file holds, what is accepted, what is refused, and that nothing of it is trained on."""

import json

import pandas as pd
import pytest
import torch
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.exact_match import exact_match, first_line, normalised
from moe_tune.data.local_short_answers import LocalShortAnswers
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_short_answers import NanoShortAnswers
from moe_tune.data.short_answers import ShortAnswers, asked_hash
from moe_tune.data.short_batching import EncodedShort, ShortDataset, ShortQuestion
from moe_tune.data.without_choices import WithoutChoices
from moe_tune.models.base_model import BaseModel

ROWS = [
    {"question": "Who wrote Faust? ", "answer": ["Goethe", "J. W. Goethe"]},
    {"question": "What is 6 * 7?", "answer": 42},
    {"question": "Where is {here}?", "answer": "there"},
]
ACCEPTED = [("Goethe", "J. W. Goethe"), ("42",), ("there",)]


def write(folder, kind, rows=ROWS):
    file = folder / f"free.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    elif kind == "json":
        file.write_text(json.dumps(rows))
    else:
        pd.DataFrame([one | {"answer": [*map(str, accepted)]} for one, accepted in zip(rows, ACCEPTED, strict=True)]
                     ).to_parquet(file)  # fmt: skip
    return str(file)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The  Quick, brown FOX.", "quick brown fox"),
        ("state-of-the-art", "stateoftheart"),
        (" An apple a day ", "apple day"),
        ("A", "a"),
        ("the a", "the a"),
        ("?!", "?!"),
        ("", ""),
        ("Zürich\t1", "zürich 1"),
    ],
)
def test_texts_are_brought_to_one_form_that_stays_what_it_is(text, form):
    assert normalised(text) == form
    assert normalised(form) == form
    assert exact_match(text, ["nothing", form])


def test_an_answer_is_its_first_line_and_never_right_by_being_empty():
    assert first_line("  Paris. \nQuestion: Who?") == "Paris."
    assert not exact_match(first_line("\nParis"), ["Paris", "the", "."])


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_every_kind_of_file_holds_the_same_questions(kind, tmp_path):
    source = LocalShortAnswers(write(tmp_path, kind))
    items = ShortAnswers(source).items
    assert [one.accepted for one in items] == ACCEPTED
    assert items[0].prompt == "Question: Who wrote Faust?\nAnswer:"
    assert items[2].prompt == "Question: Where is {here}?\nAnswer:", "braces of a question are its own"
    assert source.revision() == LocalShortAnswers(source.path).revision()


def test_what_cannot_be_asked_is_refused_or_left_out(tmp_path, olmo_tokenizer):
    with pytest.raises(ConfigError, match=r"LocalShortAnswers, path.*Hint"):
        LocalShortAnswers(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match=r"columns \['said'\].*\['question', 'answer'\].*answer say which"):
        _ = ShortAnswers(LocalShortAnswers(write(tmp_path, "jsonl"), answer="said")).items
    bad = [{"question": 3, "answer": "x"}, {"question": "x", "answer": ["y", " "]}, {"question": "x", "answer": None}]
    bad += [{"question": "\ud800 x", "answer": "x"}, {"question": "x", "answer": "\udfff"}]
    source = LocalShortAnswers(write(tmp_path, "jsonl", [*ROWS, *bad]))
    with pytest.raises(DataError, match=r"5 bad ones(.|\n)*free.jsonl:4: the question is int, not text"):
        _ = ShortAnswers(source).items
    kept = ShortAnswers(source, "drop")
    assert len(kept.items) == 3
    assert kept.notes[0].startswith("5 short questions left out, which cannot be asked: 1 x ")
    with pytest.raises(DataError, match="leave room for the answer"):
        ShortAnswers(LocalShortAnswers(write(tmp_path, "jsonl"))).encoded(olmo_tokenizer, 24)
    for wrong, word in (({"template": "Answer:"}, "template"), ({"max_new_tokens": 0}, "max_new_tokens")):
        with pytest.raises(ConfigError, match=rf"{word} of short answers.*Hint: --data.test_sources.NAME.{word}"):
            ShortAnswers(LocalShortAnswers(write(tmp_path, "jsonl"), **wrong))


def test_a_batch_is_padded_on_the_left():
    made = [
        EncodedShort(ShortQuestion("", ("x",), str(size), "", ""), torch.arange(10, 10 + size, dtype=torch.int32))
        for size in (2, 5)
    ]
    batch = ShortDataset(made, pad_id=1)[[1, 0]]
    assert batch.question_B.tolist() == [1, 0]
    assert batch.input_ids_BS.tolist() == [[10, 11, 12, 13, 14], [1, 1, 1, 10, 11]]
    assert batch.attention_mask_BS.tolist() == [[1] * 5, [0, 0, 0, 1, 1]]


def test_a_quiz_without_its_choices_accepts_the_right_ones_text(tmp_path):
    source = ListSource(test=[row("Capital of Peru?", choices=("Rome", "Lima"), answer=1), row(), row("No?", answer=9)])
    source.choice_counts = frozenset({2, 4})
    kept = ShortAnswers(WithoutChoices(source, "{question}"), "drop")
    assert [(one.prompt, one.accepted) for one in kept.items] == [
        ("Capital of Peru?", ("Lima",)),
        ("What is 1 + 1?", ("2",)),
    ]
    with pytest.raises(DataError, match=r"test\[2\]"):
        _ = ShortAnswers(WithoutChoices(source)).items


def test_a_module_keeps_test_questions_without_choices_out_of_training(olmo_tokenizer, tmp_path):
    source = ListSource(train=rows_of(12), validation=rows_of(4, start=40), test=rows_of(6, start=20))
    other = ListSource(test=rows_of(6, start=6))
    beside = {"free": WithoutChoices(other, max_new_tokens=4), "own": LocalShortAnswers(write(tmp_path, "jsonl"))}
    made = QuizDataModule(source, "lm_eval", eval_batch_size=2, limit_test=2, test_sources=beside)
    with pytest.raises(ConfigError, match="call prepare first"):
        made.short_questions("test_free")
    made.prepare(olmo_tokenizer, 4096)
    assert made.test_names == ["test"], "there are no letters to ask for"
    assert {one.stem for one in made.questions("train")} == {f"Question {place}?" for place in range(6)}
    (batch,) = made.short_loader("test_free")
    assert batch.input_ids_BS.shape[0] == 2, "data.limit_test holds for them"
    with pytest.raises(ConfigError, match="Did you mean test_own"):
        made.short_questions("test_owm")
    told = made.manifest["test_sources"]["test_free"]
    assert (told["questions"], told["max_new_tokens"], told["source"]["class"]) == (2, 4, "WithoutChoices")
    assert told["sha256"] == asked_hash(made.short_questions("test_free"))


def test_nano_short_answers_are_one_known_token_of_pages_of_the_test_split():
    tokenizer = BaseModel("nano").load_tokenizer()
    asked = ShortAnswers(NanoShortAnswers(questions=40))
    made = asked.encoded(tokenizer, 1024)
    assert len(made) == 40
    assert not any(tokenizer.unk_token_id in one.ids_S.tolist() for one in made)
    assert asked.notes == ()
    foreign = ShortAnswers(WithoutChoices(ListSource(test=rows_of(4)), "Qwerty? {question}"))
    foreign.encoded(tokenizer, 1024)
    assert "of the short questions are unknown to the tokenizer" in foreign.notes[0]
    assert {len(tokenizer(text)["input_ids"]) for one in asked.items for text in one.accepted} == {1}
    assert [one.prompt for one in asked.items] == [one.prompt for one in ShortAnswers(NanoShortAnswers()).items[:40]]
