"""Documents: what a file holds, which half of it is scored, what is refused; and that the nano text was never seen."""

import json

import pandas as pd
import pytest
import torch
from tiny_quiz import ListSource, rows_of

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.local_text import LocalText
from moe_tune.data.module import QuizDataModule
from moe_tune.data.nano_quiz import NanoQuiz, split_of
from moe_tune.data.nano_text import NanoText
from moe_tune.data.source import RawRow
from moe_tune.data.text_batching import UNSCORED, Document, EncodedDocument, TextDataset, second_half
from moe_tune.data.text_blocks import TextBlocks
from moe_tune.data.text_source import TextSource
from moe_tune.data.texts import Texts, tokens_hash
from moe_tune.data.training_text import TrainingText
from moe_tune.models.base_model import BaseModel

SAID = ["The cat sat.\nOn a mat.", "Rain fell all day."]


class ListText(TextSource):
    def __init__(self, *texts, max_tokens=512):
        self.texts, self.max_tokens = texts, max_tokens

    def documents(self):
        for index, text in enumerate(self.texts):
            yield RawRow(f"list[{index}]", {"text": text})


def write(folder, kind):
    """Write the two documents as a kind of file or folder, and return its path."""
    file = folder / f"held_out.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps({"text": one, "n": 1}) + "\n" for one in SAID))
    elif kind == "json":
        file.write_text(json.dumps([{"text": one} for one in SAID]))
    elif kind == "parquet":
        pd.DataFrame({"text": SAID}).to_parquet(file)
    elif kind == "txt":
        file.write_text("\n\n  \n".join(SAID) + "\n")
    else:
        file.mkdir()
        for index, one in enumerate(SAID):
            (file / f"{index}.txt").write_text(one + "\n\nAnd more.")
    return str(file)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "txt"])
def test_every_kind_of_file_holds_the_same_documents(kind, tmp_path):
    source = LocalText(write(tmp_path, kind))
    assert [row.values["text"].strip() for row in source.documents()] == SAID
    assert source.revision() == LocalText(source.path).revision()


def test_each_plain_file_of_a_folder_is_one_document(tmp_path):
    source = LocalText(write(tmp_path, "folder"))
    assert [row.values["text"] for row in source.documents()] == [f"{one}\n\nAnd more." for one in SAID]
    assert [row.where for row in source.documents()] == ["0.txt", "1.txt"]


def test_what_is_no_text_is_refused_or_left_out(tmp_path, olmo_tokenizer):
    with pytest.raises(ConfigError, match=r"LocalText, path.*Hint"):
        LocalText(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match=r"column 'body'.*\['text', 'n'\]"):
        list(LocalText(write(tmp_path, "jsonl"), column="body").documents())
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="one kind"):
        list(LocalText(str(tmp_path)).documents())
    file = tmp_path / "odd.jsonl"
    file.write_text("".join(json.dumps({"text": one}) + "\n" for one in [*SAID, None, "  ", 3]))
    with pytest.raises(DataError, match=r"3 bad ones(.|\n)*on_bad_row drop"):
        _ = Texts(LocalText(str(file))).documents
    kept = Texts(LocalText(str(file)), "drop")
    assert [one.text for one in kept.documents] == SAID
    assert [one.where for one in kept.dropped] == ["odd.jsonl:3", "odd.jsonl:4", "odd.jsonl:5"]
    reasons = ("missing or null", "empty", "int, not text")
    left_out = "; ".join(f"1 x text is {one}" for one in reasons)
    assert kept.notes == (f"3 documents left out, which hold no text to score: {left_out}",)
    short = Texts(ListText(*SAID, "a"), "drop")
    assert len(short.encoded(olmo_tokenizer, 512)) == 2
    assert short.dropped[0].reason == "a single token, which none predicts"
    with pytest.raises(DataError, match="at least 2 documents"):
        _ = Texts(ListText("one alone")).documents
    with pytest.raises(ConfigError, match="max_tokens"):
        Texts(ListText(*SAID, max_tokens=1))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.jsonl", "", r"documents but the file is empty \(.*none\.jsonl.*data\.text\.source"),
        ("none.json", "[]", r"documents but the file is empty \(.*none\.json"),
        ("none.txt", "\n\n", r"got 0 \(.*none\.txt.*data\.text\.source\).*blank lines"),
        ("one.jsonl", '{"text": "one alone"}\n', r"got 1 \(documents of .*one\.jsonl, sha256:.*each row is one"),
        ("object.json", '{"text": "one alone"}', r"a JSON array of objects.*object with keys 'text' \(.*object\.json"),
        (
            "null.jsonl",
            '{"text": null}\n' * 3,
            r"3 bad ones \(.*null\.jsonl.*\): 3 x text is missing or null\n  null\.jsonl:1, null\.jsonl:2, null",
        ),
        ("same.jsonl", '{"text": "The same."}\n' * 3, r"got 3 copies of one document \(.*same\.jsonl"),
        ("blank.jsonl", '{"text": " "}\n{"text": "One."}\n', r"1 bad one \("),
    ],
)
def test_bad_text_is_told_by_file_option_and_a_remedy_for_its_kind(name, content, said, tmp_path, olmo_tokenizer):
    (file := tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said) as refused:
        TextBlocks(TrainingText(LocalText(str(file)))).blocks("train", olmo_tokenizer, 512)
    assert ("blank lines" in str(refused.value)) == (file.suffix == ".txt")
    (dropped := tmp_path / "dropped.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(DataError, match="got 0, 3 left out"):
        _ = Texts(LocalText(str(dropped)), "drop").documents


def test_documents_are_named_by_content_and_cut_at_the_most(olmo_tokenizer):
    texts = Texts(ListText(*SAID, SAID[0], max_tokens=5))
    first, _, copy = texts.documents
    assert copy.id == f"{first.id}-1"
    assert copy.content_hash == first.content_hash == first.id
    made = texts.encoded(olmo_tokenizer, 512)
    whole = olmo_tokenizer(SAID[0])["input_ids"]
    assert made[0].ids_S.tolist() == whole[:5]
    assert [one.scored_S.tolist() for one in made] == [[False] * 2 + [True] * 3] * 3
    assert len(texts.encoded(olmo_tokenizer, 3)[0].ids_S) == 3, "no longer than the context"
    sample = Texts(ListText(*[f"text {one}" for one in range(40)]), limit=7)
    larger = Texts(ListText(*[f"text {one}" for one in range(40)]), limit=9)
    assert {one.id for one in sample.documents} < {one.id for one in larger.documents}


def test_a_batch_scores_the_second_half_and_nothing_else():
    documents = [
        EncodedDocument(
            Document("", str(size), "", ""), torch.arange(10, 10 + size, dtype=torch.int32), second_half(size)
        )
        for size in (2, 5, 8)
    ]
    batch = TextDataset(documents, pad_id=1)[[2, 0, 1]]
    assert batch.document_B.tolist() == [2, 0, 1]
    assert batch.input_ids_BS[1].tolist() == [10, *[1] * 6]
    assert batch.attention_mask_BS.sum(-1).tolist() == [7, 1, 4]
    assert batch.next_BS[0].tolist() == [*[UNSCORED] * 3, 14, 15, 16, 17]
    assert batch.next_BS[1].tolist() == [11, *[UNSCORED] * 6]
    assert batch.next_BS[2].tolist() == [UNSCORED, 12, 13, 14, *[UNSCORED] * 3]
    assert batch.answer_BS.sum(-1).tolist() == [documents[one].scored for one in (2, 0, 1)]


def test_nano_text_is_the_same_every_time_and_of_questions_its_pretraining_never_saw():
    pages = [row.values["text"] for row in NanoText().documents()]
    assert pages == [row.values["text"] for row in NanoText().documents()]
    assert len(set(pages)) == 400
    assert pages[:50] == [row.values["text"] for row in NanoText(documents=50).documents()]
    assert pages != [row.values["text"] for row in NanoText(seed=1).documents()]

    def key(values):
        return values["question"], *sorted(values["choices"])

    asked = {key(row.values) for row in NanoQuiz(test=400).rows("test")}
    assert all(split_of(stem, tuple(choices)) == "test" for stem, *choices in asked)
    learned = {key(row.values) for row in NanoQuiz(train=450 * 128, seed=1).rows("train")}  # its recipe
    assert not asked & learned
    assert all(any(stem in page for page in pages) for stem, *_ in asked)


def test_the_nano_model_knows_every_word_of_its_text():
    tokenizer = BaseModel("nano").load_tokenizer()
    texts = Texts(NanoText())
    made = texts.encoded(tokenizer, 1024)
    assert texts.notes == ()
    assert tokens_hash(made) == tokens_hash(Texts(NanoText()).encoded(tokenizer, 1024))
    foreign = Texts(ListText("Qwerty asdf zxcv.", "Another unheard of utterance."))
    foreign.encoded(tokenizer, 1024)
    assert "unknown to the tokenizer" in foreign.notes[0]


def test_a_module_reads_texts_beside_questions(olmo_tokenizer):
    source = ListSource(train=rows_of(12), test=rows_of(6, start=20))
    both = {"zoo": ListSource(test=rows_of(6, ("zoology",), start=60)), "page": ListText(*SAID)}
    made = QuizDataModule(source, "lm_eval", eval_batch_size=1, test_sources=both)
    with pytest.raises(ConfigError, match="call prepare first"):
        made.documents("test_page")
    made.prepare(olmo_tokenizer, 4096)
    assert made.test_names == ["test", "test_zoo"], "texts have no questions to ask"
    (first, second) = made.text_loader("test_page")
    assert first.input_ids_BS.shape[1] > second.input_ids_BS.shape[1], "the longest comes first"
    with pytest.raises(ConfigError, match="Did you mean test_page"):
        made.documents("test_pag")
    told = made.manifest["test_sources"]["test_page"]
    assert (told["documents"], told["source"]["class"]) == (2, "ListText")
    assert told["tokens_scored"] == sum(one.scored for one in made.documents("test_page"))
