"""Text to train on: every token is scored once, no copy is in two splits, and only what the assistant wrote counts."""

import json
from collections import Counter
from itertools import groupby
from operator import itemgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_texts import ListText

from moe_tune.base.errors import ConfigError, DataError, ModelError
from moe_tune.data.chat import ChatTemplate
from moe_tune.data.conversation import conversation_tokens
from moe_tune.data.local_text import LocalText
from moe_tune.data.text_batching import UNSCORED, TextDataset
from moe_tune.data.text_blocks import TextBlocks, is_held_out
from moe_tune.data.texts import Texts
from moe_tune.data.training_text import TrainingText
from moe_tune.models.base_model import BaseModel

TEXTS = [f"Document {number} says that {number * number} is the square." for number in range(60)]
TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</>{% endgeneration %}"
    "{% else %}{{ m.content }}</>{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Seven, all in all."},
]


@pytest.fixture
def chat_tokenizer(olmo_tokenizer):
    before = olmo_tokenizer.chat_template
    olmo_tokenizer.chat_template = TURNS
    yield olmo_tokenizer
    olmo_tokenizer.chat_template = before


def blocks_of(*texts, block=6, **more):
    return TextBlocks(TrainingText(ListText(*texts), block), **more)


@settings(max_examples=30, deadline=None)
@given(block=st.integers(2, 40))
def test_every_token_but_a_documents_first_is_scored_once_and_no_block_holds_two_documents(olmo_tokenizer, block):
    texts = blocks_of(*TEXTS, block=block)
    whole = {one.text: olmo_tokenizer(one.text)["input_ids"] for one in texts.documents}
    made = [one for split in ("train", "validation") for one in texts.blocks(split, olmo_tokenizer, 512)]
    scored = Counter()
    for one in made:
        assert one.length <= block
        scored[one.document.text] += one.scored
        ids = whole[one.document.text]
        assert any(ids[at : at + len(one.ids_S)] == one.ids_S.tolist() for at in range(len(ids))), "a piece of its own"
    assert scored == {text: len(ids) - 1 for text, ids in whole.items()}


def test_copies_share_a_split_and_what_differs_in_case_alone_is_not_trained_on(olmo_tokenizer):
    held = next(one for one in TEXTS if is_held_out(Texts(ListText(one, "x")).documents[0]))
    shouted = next(
        text
        for pad in range(200)
        if not is_held_out(Texts(ListText(text := held.upper() + " " * pad, "x")).documents[0])
    )
    texts = blocks_of(*TEXTS, *TEXTS, shouted)
    parts = {split: texts.blocks(split, olmo_tokenizer, 512) for split in ("train", "validation")}
    keys = {split: {one.document.content_hash for one in found} for split, found in parts.items()}
    assert keys["train"].isdisjoint(keys["validation"])
    assert shouted not in {one.document.text for one in parts["train"]}
    assert any("1 of " in note and "validation" in note for note in texts.notes)
    told = texts.manifest()
    assert told["train"]["documents"] + told["validation"]["documents"] == 120
    assert told["train"]["tokens"] == sum(one.scored for one in parts["train"])


def test_what_is_tested_is_not_trained_on(olmo_tokenizer):
    texts = blocks_of(*TEXTS, tested=[Texts(ListText(TEXTS[0].lower(), TEXTS[1]))])
    for split in ("train", "validation"):
        assert not {TEXTS[0], TEXTS[1]} & {one.document.text for one in texts.blocks(split, olmo_tokenizer, 512)}


def test_too_few_documents_and_blocks_above_the_context_are_refused_in_one_line(olmo_tokenizer):
    for texts in (["one"], ["", "two"], ["a \ud800", "b"], ["nul \x00", "c"]):
        with pytest.raises(DataError):
            blocks_of(*texts).blocks("train", olmo_tokenizer, 512)
    with pytest.raises(DataError, match=r"to validate with.*data\.text\.source"):
        blocks_of("the one", "the one").blocks("train", olmo_tokenizer, 512)
    with pytest.raises(ConfigError, match=r"at most 8 tokens.*data\.text\.block"):
        blocks_of(*TEXTS, block=9).blocks("train", olmo_tokenizer, 8)
    with pytest.raises(ConfigError, match=r"data\.text\.block"):
        TextBlocks(TrainingText(ListText(*TEXTS), 1))
    with pytest.raises(ConfigError, match=r"data\.text\.weight"):
        TextBlocks(TrainingText(ListText(*TEXTS), 8, float("nan")))


def test_a_control_token_in_plain_text_stays_text(olmo_tokenizer):
    texts = blocks_of(*TEXTS, "It says <|endoftext|> here.", block=64)
    every = texts.blocks("train", olmo_tokenizer, 512) + texts.blocks("validation", olmo_tokenizer, 512)
    (one,) = [one for one in every if "<|endoftext|>" in one.document.text]
    assert olmo_tokenizer.convert_tokens_to_ids("<|endoftext|>") not in one.ids_S.tolist()


def test_the_assistants_tokens_are_those_of_transformers_own_masks(chat_tokenizer):
    ids, written = conversation_tokens(chat_tokenizer, CHAT)
    said = chat_tokenizer.decode([one for one, mine in zip(ids, written, strict=True) if mine])
    assert said.startswith("Four.</>")
    assert said.endswith("Seven, all in all.</>")
    assert "three" not in said
    chat_tokenizer.chat_template = MARKED
    marked = chat_tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert conversation_tokens(chat_tokenizer, CHAT) == (
        marked["input_ids"],
        [bool(one) for one in marked["assistant_masks"]],
    )
    assert (ids, written) == conversation_tokens(chat_tokenizer, CHAT), "both ways say the same of this template"


def test_marks_hold_where_a_tokenizer_drops_white_space_and_a_chat_may_begin_with_the_assistant():
    tokenizer = BaseModel("nano").load_tokenizer()
    for template in (
        TURNS,
        MARKED.replace("{{ m.content }}</>{% endgeneration", "{{ m.content + '\\n' }}{% endgeneration"),
    ):
        tokenizer.chat_template = template
        chat = [{"role": "assistant", "content": "is the answer"}, *CHAT[1:]]
        ids, written = conversation_tokens(tokenizer, chat)
        said = tokenizer.decode([one for one, mine in zip(ids, written, strict=True) if mine])
        users = tokenizer("What is two and two? And three?")["input_ids"]
        assert 0 < sum(written) < len(ids) - len(users), said


@pytest.mark.parametrize("opens", [True, False])
def test_the_header_of_no_turn_is_scored_whether_it_opens_the_conversation_or_not(opens, chat_tokenizer):
    closing = "{% if add_generation_prompt"
    template = TURNS.replace("</>", "</>\n")  # whose last character shares no token with the next turn
    chat_tokenizer.chat_template = template if opens else template.partition(closing)[0]
    answer = {"role": "assistant", "content": "assist"}  # which stands in the header, too
    for chat in ([answer, CHAT[1], answer], [CHAT[1], answer, answer], [answer, answer]):
        ids, written = conversation_tokens(chat_tokenizer, chat)
        said = "".join(
            "[" + chat_tokenizer.decode(run) + "]" if mine else "|"
            for mine, run in runs_of(zip(written, ids, strict=True))
        )
        assert said.count("[assist</>\n]") == sum(one["role"] == "assistant" for one in chat), said


def runs_of(pairs):
    return [(mine, [token for _, token in run]) for mine, run in groupby(pairs, key=itemgetter(0))]


def test_messages_in_a_string_are_no_conversation(tmp_path):
    file = tmp_path / "strings.jsonl"
    file.write_text("".join(json.dumps({"messages": json.dumps(CHAT)}) + "\n" for _ in range(3)))
    with pytest.raises(DataError, match="messages are no list of turns"):
        _ = Texts(LocalText(str(file))).documents


def test_a_chat_file_is_scored_where_the_assistant_wrote(chat_tokenizer, tmp_path):
    file = tmp_path / "chat.jsonl"
    rows = [[*CHAT[:2], {"role": "assistant", "content": f"Answer {number}."}] for number in range(40)]
    file.write_text("".join(json.dumps({"messages": one}) + "\n" for one in rows))
    texts = TextBlocks(TrainingText(LocalText(str(file)), 16))
    scored = Counter()
    for split in ("train", "validation"):
        blocks = texts.blocks(split, chat_tokenizer, 512)
        batch = TextDataset(blocks, 1)[list(range(len(blocks)))]
        for row, one in enumerate(blocks):
            tokens = batch.next_BS[row][batch.next_BS[row] != UNSCORED]
            scored[one.document.text] += len(tokens)
            assert torch.equal(tokens, one.ids_S[one.scored_S].long())
    for one in texts.documents:
        assert scored[one.text] == sum(conversation_tokens(chat_tokenizer, one.messages)[1])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (CHAT[:2], "no turn of the assistant"),
        ([{"role": "oracle", "content": "Hm."}, CHAT[2]], "role 'oracle'"),
        ([{"role": "human", "content": "Hm."}, CHAT[2]], "role 'human', .*: rename it to user"),
        ([CHAT[1], {"role": "gpt", "content": "Hm."}], "role 'gpt', .*: rename it to assistant"),
        ([{"role": "user"}, CHAT[2]], "no role and content"),
        ([{"from": "human", "value": "Hm."}], r"messages\[0\] has no role and content but from and value"),
        ([CHAT[1], {"role": "assistant", "content": None}], "missing or null"),
        (None, "messages are missing or null"),
        ([CHAT[1], {"role": "assistant", "content": "a \ud800"}], "lone surrogate"),
        ([CHAT[1], {"role": "assistant", "content": "  "}], "empty"),
        ([CHAT[1], {"role": "assistant", "content": "An <|endoftext|> within."}], "control token '<|endoftext|>'"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_reason(messages, said, chat_tokenizer):
    class Chats(ListText):
        def documents(self):
            for row in super().documents():
                yield type(row)(row.where, {"messages": row.values["text"]})

    with pytest.raises(DataError, match=said.replace("|", r"\|")):
        TextBlocks(TrainingText(Chats(messages, CHAT))).blocks("train", chat_tokenizer, 512)


def test_a_template_that_raises_or_rewrites_earlier_turns_is_refused(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(ValueError, match="refuses it: only one turn"):
        conversation_tokens(chat_tokenizer, CHAT)
    for template, said in (("{{ 1 / 0 }}", "ZeroDivisionError: division"), ("{{ 'a' + 1 }}", "TypeError: ")):
        for one in (template, template + MARKED):
            chat_tokenizer.chat_template = one
            with pytest.raises(ValueError, match=f"chat template refuses it: {said}"):
                conversation_tokens(chat_tokenizer, CHAT)
            with pytest.raises(ModelError, match=f"chat template refuses it: {said}"):
                ChatTemplate(chat_tokenizer).text(CHAT[:2])
    chat_tokenizer.chat_template = "{{ messages | length }}" + TURNS
    with pytest.raises(ValueError, match="in another way"):
        conversation_tokens(chat_tokenizer, CHAT)
    chat_tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        conversation_tokens(chat_tokenizer, CHAT)


def test_nothing_is_said_of_documents_longer_than_the_tokenizers_limit(chat_tokenizer, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.tokenization_utils_base.logger.warning", lambda *args: said.append(args))
    monkeypatch.setattr(chat_tokenizer, "model_max_length", 4)
    conversation_tokens(chat_tokenizer, CHAT)
    blocks_of(*TEXTS).blocks("train", chat_tokenizer, 512)
    assert said == []
