"""Prompts in a chat template, and the cases a template can bring."""

import copy

import pytest
import torch
from tiny_quiz import row

from bench.chat_templates import TEMPLATES
from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions
from moe_tune.routing import PARTS

CHAT = load_protocol("chat")
END = "<|endoftext|>"


def questions_of(*rows):
    return number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)


EXAMPLES = {"sums": questions_of(*(row(f"What is {index} + {index}?", answer=index % 4) for index in range(3)))}
HEADER = "The following are multiple choice questions (with answers) about sums.\n\n"
CHOICES = "\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"


@pytest.fixture(params=TEMPLATES)
def tokenizer(request, olmo_tokenizer):
    return with_template(olmo_tokenizer, TEMPLATES[request.param])


def with_template(olmo_tokenizer, template):
    tokenizer = copy.deepcopy(olmo_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.bos_token, tokenizer.chat_template = END, template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (
            "tulu",
            f"{END}<|system|>\n{HEADER}\n<|user|>\nWhat is 0 + 0?{CHOICES}\n<|assistant|>\nA{END}\n"
            f"<|user|>\nReally?{CHOICES}\n<|assistant|>\n",
        ),
        (
            "chatml",
            f"<|im_start|>system\n{HEADER.strip()}<|im_end|>\n<|im_start|>user\nWhat is 0 + 0?{CHOICES}<|im_end|>\n"
            f"<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nReally?{CHOICES}<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        ("no_system", f"{END}[INST] What is 0 + 0?{CHOICES} [/INST]A{END}[INST] Really?{CHOICES} [/INST]"),
    ],
)
def test_examples_are_turns_and_the_header_is_the_system_message(olmo_tokenizer, template, wanted):
    tokenizer = with_template(olmo_tokenizer, TEMPLATES[template])
    asked = questions_of(row(" Really?"))
    encoder = PromptEncoder(tokenizer, CHAT, 4096, 1, EXAMPLES)
    encoded = encoder.encode(asked)
    assert encoder.text(asked[0], 1) == wanted
    assert tokenizer.decode(encoded.prompts[0].ids_S) == wanted
    assert tokenizer.convert_ids_to_tokens(encoded.letter_ids) == list("ABCD"), "no delimiter before the letter"
    assert encoded.template == PromptEncoder(tokenizer, CHAT, 4096).encode(asked).template


@pytest.mark.parametrize("adds", [True, False])
def test_there_is_one_beginning_token_whoever_writes_it(tokenizer, adds):
    from tokenizers import processors

    (begin,) = tokenizer.convert_tokens_to_ids([END])
    if adds:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, begin)]
        )
    ids = PromptEncoder(tokenizer, CHAT, 4096).encode(questions_of(row())).prompts[0].ids_S.tolist()
    assert (ids[0] == begin) == (adds or "bos_token" in tokenizer.chat_template)
    assert begin not in ids[1:]


@pytest.mark.parametrize("place", ["question", "choices", "subject"])
@pytest.mark.parametrize("token", [END, "<|padding|>"])
def test_control_tokens_of_a_question_are_text_and_those_of_the_template_are_not(tokenizer, place, token):
    def control(text):
        asked = questions_of(row(**{place: (text, "2", "3", "4") if place == "choices" else text}))
        ids_S = PromptEncoder(tokenizer, CHAT, 4096).encode(asked).prompts[0].ids_S
        return [one for one in ids_S.tolist() if one in tokenizer.all_special_ids], tokenizer.decode(ids_S)

    (usual, _), (came, text) = control("see here"), control(f"see {token} here")
    assert came == usual
    assert f"see {token} here" in text or (place == "subject" and "system" not in text)


def test_the_parts_of_a_chat_cover_its_tokens(tokenizer):
    asked = questions_of(row("Really?"))
    encoder = PromptEncoder(tokenizer, CHAT, 4096, 2, EXAMPLES)
    (prompt,) = encoder.encode(asked).prompts
    part_S = encoder.parts(prompt)
    said = {part: tokenizer.decode(prompt.ids_S[part_S == index]) for index, part in enumerate(PARTS)}
    assert said["stem"].strip(" ") == "Really?\n"
    assert said["choices"] == "A. 1\nB. 2\nC. 3\nD. 4\n"
    assert said["examples"].strip(" ").startswith("What is 0 + 0?")
    assert "What is 1 + 1?" in said["examples"]
    assert said["instruction"].count("Answer:") == 1


def test_encoding_does_not_depend_on_company(tokenizer):
    asked = questions_of(row("one?"), row(f"two {END}?"), row("three?" * 20))
    encoder = PromptEncoder(tokenizer, CHAT, 4096, 2, EXAMPLES)
    together = encoder.encode(asked).prompts
    alone = [encoder.encode([one]).prompts[0] for one in asked]
    assert all(torch.equal(one.ids_S, other.ids_S) for one, other in zip(together, alone, strict=True))


def test_a_tokenizer_without_a_template_is_refused(olmo_tokenizer):
    with pytest.raises(ConfigError, match="tokenizer with a chat template"):
        PromptEncoder(olmo_tokenizer, CHAT, 4096)


def test_a_template_that_takes_no_turns_is_refused(olmo_tokenizer):
    tokenizer = with_template(olmo_tokenizer, "{{ raise_exception('Only tools here') }}")
    with pytest.raises(ModelError, match="Only tools here"):
        PromptEncoder(tokenizer, CHAT, 4096)


def test_a_template_that_changes_questions_has_no_parts(olmo_tokenizer):
    encoder = PromptEncoder(with_template(olmo_tokenizer, "{{ messages[-1]['content'] | upper }}"), CHAT, 4096)
    (prompt,) = encoder.encode(questions_of(row())).prompts
    with pytest.raises(ModelError, match="leaves questions as they are"):
        encoder.parts(prompt)
