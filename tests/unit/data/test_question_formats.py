"""Every kind of file that people have: written here in its own shape, read as the same questions."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.formats.values import answer_of, shuffled
from moe_tune.data.local_files import LocalFiles
from moe_tune.data.protocol import AUXILIARY
from moe_tune.data.question import LETTERS
from moe_tune.data.validation import validate_split

STEMS = [
    *("What is 1 + 1?", " leading and trailing ", "tab\there", "line\nbreak", "dos\r\nbreak", "a, comma", "; and |"),
    *('a "quote"', "'single'", "=1+1", "-3", "@x", "NA", "null", "007", "1e5", "True", "café", "e\u0301lan"),
    *("\u05d0\u05d1\u05d2", "a\u200bb", "sep\u2028arator", "🙂", r"$\frac{1}{2}$ \n"),
]
CHOICES = ["one", "two, or more", "three\nlines", "four"]
QUESTIONS = [(stem, CHOICES[: 2 + place % 3], place % 2) for place, stem in enumerate(STEMS)]
"""24 odd stems with 2, 3 and 4 choices, in turn right at A and B."""


def lines(rows):
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows).encode()


def cells(rows, header=None, delimiter=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([*([header] if header else []), *rows])
    return text.getvalue().encode()


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def padded(choices, width=4):
    return [*choices, *[""] * (width - len(choices))]


def mmlu(letter=False, **more):
    return [
        {"question": stem, "choices": choices, "answer": LETTERS[right].lower() if letter else right, **more}
        for stem, choices, right in QUESTIONS
    ]


def pro():
    rows = [{"question_id": 1, "question": s, "options": c, "answer": LETTERS[r]} for s, c, r in QUESTIONS]
    return [{**one, "answer_index": r, "category": "law"} for one, (_, _, r) in zip(rows, QUESTIONS, strict=True)]


def arc():
    labels = ["ABCD", "1234"]
    return [
        {
            "id": str(place),
            "question": stem,
            "choices": {"text": choices, "label": list(labels[place % 2][: len(choices)])},
            "answerKey": labels[place % 2][right],
        }
        for place, (stem, choices, right) in enumerate(QUESTIONS)
    ]


def lettered(*before):
    return [[*before, stem, *padded(choices), LETTERS[right]] for stem, choices, right in QUESTIONS]


def samples():
    rows = [
        {"doc_id": place, "doc": one, "target": "0", "arguments": {}} for place, one in enumerate(mmlu(subject="law"))
    ]
    return [*rows, {**rows[0], "filter": "second"}]


INDEXED = ["", "Question", "A", "B", "C", "D", "Answer"]
KINDS = {
    # kind: file, content, what is said
    "MMLU lines": ("test.jsonl", lines(mmlu(subject="law")), "MMLU: question, choices, answer, subject"),
    "MMLU array": ("test.json", json.dumps(mmlu(subject="law")).encode(), "MMLU: question, choices"),
    "MMLU parquet": ("test.parquet", parquet(mmlu(subject="law")), "MMLU: question, choices"),
    "small letters": ("test.jsonl", lines(mmlu(letter=True, subject="law")), "MMLU: "),
    "no subject": ("test.jsonl", lines(mmlu()), "no subject: general_knowledge"),
    "more columns": ("test.jsonl", lines(mmlu(subject="law", source="x", year=3)), "ignored: source, year"),
    "Hub folder": ("all/test-00000-of-00001.parquet", parquet(mmlu(subject="law")), "MMLU: "),
    "shards": ("data/test-00000-of-00001.parquet", parquet(mmlu(subject="law")), "MMLU: "),
    "folder per subject": ("law/test-00000-of-00001.parquet", parquet(mmlu()), "subject by the file's name"),
    "MMLU-Pro": ("test.jsonl", lines(pro()), "MMLU-Pro: question, options, answer, answer_index, category"),
    "MMLU-Pro parquet": ("test.parquet", parquet(pro()), "MMLU-Pro: "),
    "MMLU-Redux": ("test.jsonl", lines(mmlu(error_type="ok", correct_answer=None)), "MMLU-Redux: "),
    "ARC": ("test.jsonl", lines(arc()), "ARC: question, choices, answerKey"),
    "ARC parquet": ("ARC-Challenge/test-00000-of-00001.parquet", parquet(arc()), "ARC: "),
    "MMMLU": ("test/law.csv", cells(lettered("1"), INDEXED), "one column per choice: Question, A, B, C, D, Answer"),
    "CSV with a header": ("law_test.csv", cells(lettered(), INDEXED[1:]), "subject by the file's name"),
    "CSV and one list": ("test.csv", cells([[s, repr(c), r] for s, c, r in QUESTIONS], list(mmlu()[0])), "MMLU: "),
    "TSV": ("test.tsv", cells(lettered(), INDEXED[1:], "\t"), "one column per choice: "),
    "lm-eval samples": ("samples_law_2026-01-01T00.jsonl", lines(samples()), "lm-eval samples, MMLU: "),
    "wrapped": ("test.jsonl", lines([{"train": one} for one in mmlu(subject="law")]), "MMLU: "),
}


@pytest.mark.parametrize(("name", "content", "said"), KINDS.values(), ids=KINDS.keys())
def test_odd_stems_come_back_exactly(tmp_path, name, content, said):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path, tmp_path / name):
        source = LocalFiles(str(place))
        assert source.splits() == ("test",)
        read = validate_split(source, "test")
        assert [(one.stem, list(one.choices), one.answer) for one in read.questions] == QUESTIONS
        assert len({one.subject for one in read.questions}) == 1
        assert len(source.notes) == 1
        assert said in source.notes[0] or place.name == "test-00000-of-00001.parquet"


def test_a_hendrycks_tree_is_read_from_any_of_its_levels(tmp_path):
    four = [[stem, *CHOICES, LETTERS[right]] for stem, _, right in QUESTIONS]
    for split in ("dev", "val", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / f"law_{split}.csv").write_bytes(cells(four))
    for place in (tmp_path, tmp_path / "data"):
        assert LocalFiles(str(place)).splits() == ("validation", "test", "dev")
    for place in (tmp_path, tmp_path / "data", tmp_path / "data" / "test", tmp_path / "data/test/law_test.csv"):
        questions = validate_split(LocalFiles(str(place)), "test").questions
        assert [(one.subject, one.stem, one.answer) for one in questions] == [("law", s, r) for s, _, r in QUESTIONS]


def test_the_auxiliary_split_of_a_hub_folder_trains_and_that_of_a_hendrycks_tree_is_left_alone(tmp_path):
    (tmp_path / "all").mkdir()
    for split, rows in (
        ("test", mmlu(subject="law")),
        ("auxiliary_train", [{"train": one} for one in mmlu(subject="")]),
    ):
        (tmp_path / "all" / f"{split}-00000-of-00001.parquet").write_bytes(parquet(rows))
    read = validate_split(LocalFiles(str(tmp_path)), "train")
    assert [one.stem for one in read.questions] == STEMS
    assert {one.subject for one in read.questions} == {AUXILIARY}
    for split in ("auxiliary_train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / ("race.csv" if "_" in split else "law_val.csv")).write_bytes(
            cells([[stem, *CHOICES, "A"] for stem in STEMS])
        )
    assert LocalFiles(str(tmp_path / "data")).splits() == ("validation",)


def gpqa():
    wrong = [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    return cells(
        [["x", s, "right", "b", "c", "d", "law"] for s in STEMS],
        ["id", "Question", "Correct Answer", *wrong, "High-level domain"],
    )


def test_gpqa_is_shuffled_by_content(tmp_path):
    (tmp_path / "test.csv").write_bytes(gpqa())
    source = LocalFiles(str(tmp_path))
    questions = validate_split(source, "test").questions
    assert [one.stem for one in questions] == STEMS
    assert {one.choices[one.answer] for one in questions} == {"right"}
    assert {one.letter for one in questions} == set("ABCD")
    assert "choices shuffled by each question's content hash" in source.notes[0]


@given(st.text(), st.lists(st.text(), min_size=2, max_size=16, unique=True), st.data())
def test_a_shuffle_follows_from_the_content_alone(stem, choices, data):
    right = data.draw(st.integers(0, len(choices) - 1))
    order, place = shuffled(stem, choices, right)
    assert (sorted(order), order[place]) == (sorted(choices), choices[right])
    assert shuffled(stem, choices, right) == (order, place)


@pytest.mark.parametrize(
    ("correct", "kept", "letter"), [("1", 3, "B"), ("C", 3, "C"), ("four", 3, "D"), ("A, B", 2, None), (None, 2, None)]
)
def test_mmlu_redux_leaves_out_what_is_wrong_and_takes_corrected_keys_on_request(tmp_path, correct, kept, letter):
    row = {"choices": CHOICES, "answer": 0, "error_type": "ok", "correct_answer": None}
    wrong = {"question": "wrong?", **row, "error_type": "wrong_groundtruth", "correct_answer": correct}
    rows = [{"question": "a?", **row}, {"question": "b?", **row}, {"question": "c?", **row, "error_type": "bad"}, wrong]
    (tmp_path / "test.jsonl").write_bytes(lines(rows))
    source = LocalFiles(str(tmp_path))
    assert [one.stem for one in validate_split(source, "test").questions] == ["a?", "b?"]
    assert "test: 2 of 4 rows left out: 1 x error_type bad, 1 x error_type wrong_groundtruth" in source.notes
    source = LocalFiles(str(tmp_path), corrected=True)
    questions = validate_split(source, "test").questions
    assert len(questions) == kept
    assert ("test: 1 of 4 rows with a corrected key" in source.notes) == (kept == 3)
    assert letter is None or questions[-1].letter == letter


OWN = {"question": "Frage", "choices": ["richtig", "falsch", "=keine davon"], "answer": "=A", "subject": "=recht"}


def test_columns_of_ones_own_and_constants(tmp_path):
    rows = [{"Frage": stem, "richtig": "ja", "falsch": "nein", "Nr": 1} for stem in STEMS]
    (tmp_path / "test.jsonl").write_bytes(lines(rows))
    with pytest.raises(DataError, match=r"got \['Frage', 'richtig', 'falsch', 'Nr'\].*data\.source\.columns"):
        validate_split(LocalFiles(str(tmp_path)), "test")
    source = LocalFiles(str(tmp_path), columns=OWN)
    questions = validate_split(source, "test").questions
    assert [one.stem for one in questions] == STEMS
    assert {(one.choices[one.answer], one.subject, len(one.choices)) for one in questions} == {("ja", "recht", 3)}
    assert "ignored: Nr" in source.notes[0]
    assert "no subject" not in source.notes[0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"question": "q", "choices": "c"}, "a column for question, choices and answer"),
        ({**OWN, "anser": "x"}, "Did you mean answer"),
        ({**OWN, "answer": "=first"}, "a letter as constant answer"),
        ({**OWN, "question": ["a", "b"]}, "one column for question"),
    ],
)
def test_columns_that_say_too_little(tmp_path, columns, words):
    with pytest.raises(ConfigError, match=words):
        LocalFiles(str(tmp_path), columns=columns)


def test_a_named_column_that_is_not_there(tmp_path):
    (tmp_path / "test.csv").write_bytes(cells([["a?", "1", "2"]], ["Frage ", "ricthig", "falsch"]))
    with pytest.raises(DataError, match=r"the column 'richtig' but got.*Did you mean ricthig"):
        validate_split(LocalFiles(str(tmp_path), columns=OWN), "test")


@pytest.mark.parametrize("count", range(2, 17))
def test_two_to_sixteen_choices(tmp_path, count):
    choices = [f"choice {number}" for number in range(count)]
    rows = [{"question": f"{right}?", "options": choices, "answer": LETTERS[right]} for right in range(count)]
    (tmp_path / "test.jsonl").write_bytes(lines(rows))
    assert [one.answer for one in validate_split(LocalFiles(str(tmp_path)), "test").questions] == list(range(count))
    other = [3] if count != 3 else [4]
    with pytest.raises(DataError, match=f"{count} choices, not {other[0]}"):
        validate_split(LocalFiles(str(tmp_path), choice_counts=other), "test")


@given(st.lists(st.text(min_size=1), min_size=2, max_size=16), st.data())
def test_an_answer_is_its_index_letter_or_label_and_nothing_else_is_made_of_it(choices, data):
    right = data.draw(st.integers(0, len(choices) - 1))
    labels = [str(number + 5) for number in range(len(choices))]
    for given_, counted_from in ((right, 0), (right + 1, 1), (str(right), 0), (f" {right + 1}", 1)):
        assert answer_of(given_, choices, counted_from=counted_from) == right
    for letter in (LETTERS[right], LETTERS[right].lower()):
        assert answer_of(letter, choices) == LETTERS[right]
    assert answer_of(labels[right], choices, labels) == LETTERS[right]
    assert answer_of(float(right), choices) == right
    for other in (None, 1.5, True, "", "AB", ["A"]):
        assert other in choices or answer_of(other, choices) is other


WHOLE = [
    {"question": "a?", "choices": [-3, 12345678901], "answer": "-3", "subject": 7},
    {"question": "b?", "choices": {"text": [5, "x"], "label": [1, 2]}, "answer": 2.0, "subject": 7},
    {"question": "c?", "choices": [1, 2], "answer": 1.0, "subject": 7},
]


@pytest.mark.parametrize(
    ("name", "content"), [("test.jsonl", lines), ("test.json", lambda rows: json.dumps(rows).encode())]
)
def test_whole_numbers_are_texts_as_choices_and_subjects_and_indices_as_answers(tmp_path, name, content):
    (tmp_path / name).write_bytes(content(WHOLE))
    read = validate_split(LocalFiles(str(tmp_path)), "test").questions
    texts = [("-3", "12345678901"), ("5", "x"), ("1", "2")]
    assert [(one.choices, one.answer, one.subject) for one in read] == list(
        zip(texts, [0, 1, 1], ["7"] * 3, strict=True)
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"choices": [True, "x"]}, "choice A is bool"),
        ({"choices": ["x", 0.5]}, "choice B is float"),
        ({"subject": True}, "subject is bool"),
        ({"answer": 0.5}, "answer is 0.5"),
        ({"answer": True}, "answer is True"),
    ],
)
def test_truth_values_and_parts_are_no_whole_numbers(tmp_path, values, reason):
    row = {"question": "a?", "choices": ["x", "y"], "answer": 0, "subject": "law", **values}
    (tmp_path / "test.jsonl").write_bytes(lines([row]))
    with pytest.raises(DataError, match=reason):
        validate_split(LocalFiles(str(tmp_path)), "test")


REFUSED = {
    # kind: files, words of the one message
    "letter and index": ({"test.jsonl": lines([{**one, "answer_index": 3} for one in pro()])}, "but answer_index 3"),
    "answers are texts of choices": (
        {"test.jsonl": lines([{"question": f"{n}?", "choices": ["3", "1", "2"], "answer": "2"} for n in range(3)])},
        r"also the text of a choice.*answers_from 0",
    ),
    "answers are numbers among the choices": (
        {"test.jsonl": lines([{"question": f"{n}?", "choices": [3, 1, 2], "answer": 2.0 - n} for n in range(2)])},
        r"also the text of a choice.*answers_from 0",
    ),
    "a shard is missing": ({"data/test-00000-of-00002.parquet": parquet(mmlu())}, "all of test-"),
    "two tasks": ({f"samples_{n}.jsonl": lines(samples()) for n in "ab"}, r"samples of one task but got.*\['a', 'b'\]"),
    "a name that is no split": ({"mine.jsonl": lines(mmlu())}, r"mine\.jsonl reads one file"),
    "a column twice": ({"test.csv": cells([["a?", *"12AA"]], ["question", *"AB", "answer", "Answer"])}, "twice"),
    "other columns": ({"test.jsonl": lines([{"text": "a", "label": 1}])}, r"got \['text', 'label'\]"),
    "no array": ({"test.json": b'{"a": 1}'}, "a JSON array of objects, one a row, but got an object with keys 'a' "),
    "no objects": ({"test.json": b'[{}, "b"]'}, r'got an array with "b" at \[1\]'),
    "no array at all": ({"test.json": b'"b"'}, 'a row, but got "b"'),
    "tabs in a .csv": ({"test.csv": cells(lettered(), INDEXED[1:], "\t")}, r"',' but got tabs, 6 cells.*name it \.tsv"),
    "commas in a .tsv": ({"test.tsv": cells(lettered(), INDEXED[1:])}, r"tabs but got ','.*name it \.csv"),
    "broken array": ({"test.json": b"[{]"}, "JSON array but got"),
}


@pytest.mark.parametrize(("files", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_and_why(tmp_path, files, words):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        validate_split(LocalFiles(str(tmp_path)), "test")
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_the_hint_for_semicolons_mends_the_file(tmp_path, monkeypatch, quoting):
    monkeypatch.chdir(tmp_path)
    with open("test.csv", "w", newline="") as file:
        csv.writer(file, delimiter=";", quoting=quoting).writerows([INDEXED[1:], *lettered()])
    exec(hint_of("test.csv", "separated by ',' but got ';', 6 cells a row"))
    assert [one.stem for one in validate_split(LocalFiles("test.csv"), "test").questions] == STEMS


def test_the_hint_for_an_object_around_the_rows_mends_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiz.json").write_text(json.dumps({"version": 1, "data": mmlu()}))
    exec(hint_of("quiz.json", "an object with keys 'version', 'data' "))
    assert [one.stem for one in validate_split(LocalFiles("rows_data.json"), "test").questions] == STEMS


def hint_of(path, words):
    with pytest.raises(DataError, match=words) as caught:
        validate_split(LocalFiles(path), "test")
    return str(caught.value).partition('python -c "')[2].partition('"')[0]
