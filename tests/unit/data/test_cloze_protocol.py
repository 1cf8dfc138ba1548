"""Cloze questions: the tokens of each choice, and how a batch holds them."""

import pytest
import torch
from tiny_quiz import row

from moe_tune.base.errors import DataError
from moe_tune.data.batching import PromptDataset
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.packed import PackedChoices
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions

CLOZE = load_protocol("cloze")
ODD = (" two  words", "e\u0301t\u00e9", "A", "{letter} {choice}?")


def questions_of(*rows):
    return number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)


ASKED = questions_of(row(" Which? ", choices=ODD, answer=3), row("One or the other?", choices=("yes", "no no no")))
EXAMPLES = {"sums": questions_of(row("What is 0 + 0?", answer=0))}


def test_the_text_is_that_of_the_harness():
    assert CLOZE.prompt(ASKED[0], EXAMPLES["sums"]) == (
        "The following are questions (with answers) about sums.\n\n"
        "Question: What is 0 + 0?\nAnswer: 1\n\nQuestion: Which?\nAnswer:"
    )
    assert CLOZE.answers(ASKED[0]) == [f" {text}" for text in ODD]


@pytest.mark.parametrize("shots", [0, 1])
def test_prompt_and_choice_make_the_whole_text(olmo_tokenizer, shots):
    encoded = PromptEncoder(olmo_tokenizer, CLOZE, 4096, shots, EXAMPLES).encode(ASKED)
    assert encoded.letter_ids == []
    for one in encoded.prompts:
        text = CLOZE.prompt(one.question, EXAMPLES["sums"][:shots])
        assert one.ids_S.tolist() == olmo_tokenizer.encode(text)
        for ids, choice in zip(one.choices, one.question.choices, strict=True):
            assert [*one.ids_S.tolist(), *ids.tolist()] == olmo_tokenizer.encode(f"{text} {choice}")
        assert one.length == len(one.row_S) == len(one.ids_S) + sum(len(ids) - 1 for ids in one.choices)


def test_the_longest_choice_has_to_fit(olmo_tokenizer):
    asked = questions_of(row(choices=("short", "long " * 30)), row("Short?"))
    fits = PromptEncoder(olmo_tokenizer, CLOZE, 4096).encode(asked).prompts[0]
    limit = len(fits.ids_S) + len(fits.choices[1]) - 1
    assert PromptEncoder(olmo_tokenizer, CLOZE, limit).encode(asked).dropped == ()
    with pytest.raises(DataError, match=f"prompt longer than {limit - 1} tokens"):
        PromptEncoder(olmo_tokenizer, CLOZE, limit - 1).encode(asked)


def test_a_row_holds_every_choice_token_that_predicts_another(olmo_tokenizer):
    prompts = PromptEncoder(olmo_tokenizer, CLOZE, 4096).encode(ASKED).prompts
    batch = PromptDataset(prompts, ["sums"], 0)[[1, 0]]
    packed = batch.choices
    assert packed.characters_BA.tolist() == [[3, 8, 1, 1], [len(text) for text in ODD]]
    for place, one in enumerate([prompts[1], prompts[0]]):
        assert batch.answer_position_B[place] == len(one.ids_S) - 1
        for index, ids in enumerate(one.choices):
            mine = (packed.row_M == place) & (packed.choice_M == index)
            assert packed.token_M[mine].tolist() == ids.tolist()
            seen = batch.input_ids_BS[place, packed.place_M[mine]].tolist()
            assert seen == [int(one.ids_S[-1]), *ids[:-1].tolist()]
            position = packed.position_BS[place, packed.place_M[mine]].tolist()
            assert position == list(range(len(one.ids_S) - 1, len(one.ids_S) + len(ids) - 1))


def test_a_token_sees_the_prompt_and_its_own_choice_up_to_itself():
    branch = torch.tensor([[0, 0, 1, 1, 2, 0]])
    seen = PackedChoices.seen(branch)[0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
