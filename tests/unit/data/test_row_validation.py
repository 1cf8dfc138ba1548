import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import DataError
from moe_tune.data.validation import drop_list_hash, validate_split

BAD = {
    "three choices": (row(choices="abc"), "3 choices"),
    "five choices": (row(choices="abcde"), "5 choices"),
    "no choices": (row(choices=()), "0 choices"),
    "choices are text": ({**row(), "choices": "abcd"}, "choices is str"),
    "empty choice": (row(choices=("1", "2", "", "4")), "choice C is empty"),
    "blank choice": (row(choices=(" \n", "2", "3", "4")), "choice A is empty"),
    "choice no text": (row(choices=("1", 2, "3", "4")), "choice B is int"),
    "answer -1": (row(answer=-1), "answer is -1"),
    "answer 4": (row(answer=4), "answer is 4"),
    "answer E": (row(answer="E"), "answer is 'E'"),
    "answer a": (row(answer="a"), "answer is 'a'"),
    "answer empty": (row(answer=""), "answer is ''"),
    "answer AB": (row(answer="AB"), "answer is 'AB'"),
    "answer float": (row(answer=1.0), "answer is 1.0"),
    "answer bool": (row(answer=True), "answer is True"),
    "answer null": (row(answer=None), "answer is None"),
    "answer digit": (row(answer="2"), "answer is '2'"),
    "question empty": (row(question=""), "question is empty"),
    "question null": (row(question=None), "question is missing or null"),
    "question number": (row(question=3), "question is int"),
    "question 1 MB": (row(question="x" * 1_000_001), "more than 1000000 bytes"),
    "NUL": (row(question="a\x00b"), "NUL"),
    "lone surrogate": (row(choices=("\ud800", "2", "3", "4")), "lone surrogate"),
    "subject null": (row(subject=None), "subject is missing or null"),
    "subject unknown": (row(subject="alchemy"), "unknown subject 'alchemy'"),
    "subject in other case": (row(subject="Sums"), "unknown subject 'Sums'"),
}
SUBJECTS = ("sums", "maps")


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_row_stops_or_is_dropped_and_recorded(bad, reason):
    source = ListSource(test=[*rows_of(4), bad], declared_subjects=SUBJECTS)
    with pytest.raises(DataError) as caught:
        validate_split(source, "test")
    assert "test[4]" in str(caught.value)
    assert reason in str(caught.value)
    read = validate_split(source, "test", "drop")
    assert [one.where for one in read.dropped] == ["test[4]"]
    assert len(read.questions) == 4
    assert read.rows == 5


@pytest.mark.parametrize(("answer", "index"), [(0, 0), (3, 3), ("A", 0), ("D", 3)])
def test_accepted_answers(answer, index):
    assert validate_split(ListSource(test=[row(answer=answer), row("b?")]), "test").questions[0].answer == index


@given(
    stem=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), min_size=1).filter(str.strip)
)
def test_text_is_kept_exactly(stem):
    assert validate_split(ListSource(test=[row(stem), row(stem + "?")]), "test").questions[0].stem == stem


@pytest.mark.parametrize("text", ["e\u0301", "\u05d0\u05d1", "a\u200bb", "🙂", "\ufeffa", "a\r\nb", r"$\frac{1}{2}$"])
def test_unusual_text_is_accepted(text):
    assert validate_split(ListSource(test=[row(text), row("b?")]), "test").questions[0].stem == text


def test_message_lists_twenty_and_counts_all():
    source = ListSource(test=[row(f"{index}?", answer=9) for index in range(50)])
    with pytest.raises(DataError) as caught:
        validate_split(source, "test")
    message = str(caught.value)
    assert message.count(" test[") == 20
    assert "50 x answer is 9" in message
    assert "and 30 more" in message


def test_drop_list_hash_pins_the_list():
    lists = [
        validate_split(ListSource(test=[*rows_of(4), *bad]), "test", "drop").dropped
        for bad in ([], [row(answer=7)], [row(answer=8)], [row(answer=7), row(answer=8)])
    ]
    hashes = [drop_list_hash(one) for one in lists]
    assert len(set(hashes)) == 4
    assert hashes == [drop_list_hash(one) for one in lists]


def test_contradictory_answers_are_bad_and_repeats_are_not():
    rows = [row("a?", answer=1), row("b?"), row("a?", answer=2), row("b?"), row("c?")]
    with pytest.raises(DataError, match="another answer"):
        validate_split(ListSource(test=rows), "test")
    read = validate_split(ListSource(test=rows), "test", "drop")
    assert [one.where for one in read.dropped] == ["test[0]", "test[2]"]
    assert [one.stem for one in read.questions] == ["b?", "b?", "c?"]
    assert len({one.id for one in read.questions}) == 3
    assert any("1 questions repeat" in one for one in read.warnings)


def test_a_contradiction_across_subjects_is_one_too():
    rows = [row("a?", "sums", answer=1), row("a?", "maps", answer=2), *rows_of(2)]
    assert len(validate_split(ListSource(test=rows), "test", "drop").dropped) == 2


@pytest.mark.parametrize(
    ("rows", "finding"),
    [
        ([row(choices=("1", "1", "2", "3")), row("b?")], "1 questions have two equal choices"),
        ([row(choices="abcd"), row(choices="dcba", answer=2)], "choices in another order"),
        ([row(f"{index}?", answer=0) for index in range(30)], "30 of 30 answers are A"),
    ],
)
def test_findings_are_recorded(rows, finding):
    assert any(finding in one for one in validate_split(ListSource(test=rows), "test").warnings)


def test_known_size_warns_and_is_an_error_when_official():
    source = ListSource(test=rows_of(4), known_sizes={"test": 5})
    assert any("expected 5 rows" in one for one in validate_split(source, "test").warnings)
    with pytest.raises(DataError, match="expected 5 rows"):
        validate_split(source, "test", official=True)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_questions(count):
    with pytest.raises(DataError, match="at least 2"):
        validate_split(ListSource(test=rows_of(count)), "test")


def test_a_declared_subject_without_questions():
    source = ListSource(test=rows_of(4), declared_subjects=(*SUBJECTS, "keys"))
    with pytest.raises(DataError, match=r"none of \['keys'\]"):
        validate_split(source, "test")


@pytest.mark.parametrize("values", [{"question": "a"}, row(extra=1), {}])
def test_other_columns(values):
    with pytest.raises(DataError, match=r"columns .* but got"):
        validate_split(ListSource(test=[*rows_of(3), values]), "test", "drop")
