"""What silently spoils a number: answers counted from 1, copies with two keys, leaks, index columns, thin subjects."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import DataError
from moe_tune.data.copies import HeldOut, copy_key
from moe_tune.data.question import number_questions, one_letter
from moe_tune.data.splits import Splits
from moe_tune.data.validation import validate_split


def from_one(count, answers=(1, 2, 3, 4)):
    return [row(f"Question {n}?", answer=answers[n % len(answers)]) for n in range(count)]


@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
@pytest.mark.parametrize("rows", [from_one(4), from_one(60, (1, 2, 3))], ids=["a gold beyond", "no 0 among 60"])
def test_answers_counted_from_one_are_an_error_that_drop_does_not_mend(rows, on_bad_row):
    with pytest.raises(DataError, match=r"counted from 1\?.*data\.source\.answers_from 1") as caught:
        validate_split(ListSource(test=rows), "test", on_bad_row)
    assert caught.value.exit_code == 3


def test_a_few_rows_without_a_0_are_a_warning():
    read = validate_split(ListSource(test=from_one(20, (1, 2, 3))), "test")
    assert any("none of 20 answers is 0 (chance 0.003): counted from 1?" in one for one in read.warnings)


def test_all_rows_of_the_source_are_counted():
    parts = {name: from_one(20, (1, 2, 3)) for name in ("train", "validation", "test")}
    with pytest.raises(DataError, match="none of 60 answers is 0"):
        validate_split(ListSource(**parts), "test")
    assert not validate_split(ListSource(**{**parts, "train": rows_of(4)}), "test").warnings[1:]


def test_one_0_anywhere_and_answers_by_letter_settle_it():
    for rows in ([*from_one(60, (1, 2, 3)), row("z?", answer=0)], [row(f"{n}?", answer="B") for n in range(60)]):
        assert len(validate_split(ListSource(test=rows), "test").questions) == len(rows)
    bad = validate_split(ListSource(test=[*from_one(8), row("z?", answer=0)]), "test", "drop")
    assert len(bad.dropped) == 2


def test_answers_from_settles_it():
    source = ListSource(test=from_one(60, (1, 2, 3)))
    source.answers_from = 0
    assert {one.answer for one in validate_split(source, "test").questions} == {1, 2, 3}


def test_copies_with_another_gold_are_bad_rows_also_with_permuted_choices():
    rows = [
        *(
            row("a?", choices="abcd", answer=0),
            row("a?", choices="dcba", answer=0),
            row("a?", choices="abcd", answer=0),
        ),
        *(row("b?", choices="abcd", answer=0), row("b?", choices="dcba", answer=3)),
        *rows_of(4),
    ]
    with pytest.raises(DataError, match="3 x the same question has another answer"):
        validate_split(ListSource(test=rows), "test")
    read = validate_split(ListSource(test=rows), "test", "drop")
    assert [one.where for one in read.dropped] == ["test[0]", "test[1]", "test[2]"]
    assert any("3 of 9 rows dropped: 3 x the same question has another answer" in one for one in read.warnings)


@pytest.mark.parametrize("first", [0, 1, 17])
def test_an_index_column_is_no_question(first):
    stems = [str(first + n) for n in range(10)]
    with pytest.raises(DataError, match="an index column"):
        validate_split(ListSource(test=[row(one) for one in stems]), "test", "drop")
    random.Random(0).shuffle(stems)
    assert len(validate_split(ListSource(test=[row(one, answer=0) for one in stems]), "test").questions) == 10


def test_few_questions_per_subject_are_named():
    rows = [*rows_of(60, ["sums"]), *rows_of(3, ["maps"], 90)]
    read = validate_split(ListSource(test=rows), "test")
    assert any(
        "1 of 2 subjects have fewer than 20 questions, too few to say much: maps" in one for one in read.warnings
    )


@given(st.lists(st.integers(0, 15), min_size=2))
def test_one_letter_is_said_if_and_only_if_there_is_one(answers):
    assert (one_letter(answers) is not None) == (len(set(answers)) == 1)


words = st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=1)


def questions_of(*rows):
    return number_questions((one["subject"], one["question"], tuple(one["choices"]), one["answer"]) for one in rows)


@given(stem=st.lists(words, min_size=1), choices=st.lists(words, min_size=2, max_size=16), shuffle=st.randoms())
def test_case_white_space_and_order_of_choices_make_no_other_question(stem, choices, shuffle):
    def changed(parts):
        text = "".join(one + shuffle.choice([" ", "\t", "\n", "  "]) for one in parts)
        return shuffle.choice([text, text.upper(), text.lower(), f" {text}"])

    order = shuffle.sample(choices, len(choices))
    one, other, another = questions_of(
        row(" ".join(stem), choices=choices),
        row(changed(stem), choices=[changed([choice]) for choice in order]),
        row(" ".join([*stem, "not"]), choices=choices),
    )
    assert copy_key(one) == copy_key(other) != copy_key(another)


PASSAGE = "The committee met on a rainy day in the old hall and spoke for two hours about the new bridge."


def look_alikes(count):
    """Return pairs that look like copies: another number, and the same passage with another question."""
    for n in range(count):
        stem = f"A box holds {n} coins and gets {n % 7} more. How many does it hold?"
        ask = f"{PASSAGE} What did speaker {n} say?"
        yield (
            (row(stem), row(stem.replace(f"{n} coins", f"{n + count} coins")))
            if n % 2
            else (row(ask), row(f"{ask} And why?"))
        )


def leaking(count=20):
    """Return test rows, and as many others that are the same but for case, white space and order of choices."""
    rows = [row(f"Leak number {n}, is it so?", choices=[f"{n} a", "b", "c", "d"], answer=n % 4) for n in range(count)]
    changes = [
        lambda one: {**one, "question": one["question"].upper()},
        lambda one: {**one, "question": one["question"].replace(" ", "  ") + "\n"},
        lambda one: {**one, "choices": one["choices"][::-1], "answer": 3 - one["answer"]},
        lambda one: one,
    ]
    return rows, [changes[n % 4](one) for n, one in enumerate(rows)]


def test_every_leak_goes_and_no_look_alike():
    tested, leaks = leaking()
    pairs = list(look_alikes(200))
    source = ListSource(
        train=[*leaks, *(one for one, _ in pairs)],
        validation=[*leaks, *rows_of(40)],
        test=[*tested, *(two for _, two in pairs)],
    )
    splits = Splits(source)
    assert len(splits.questions("train")) == 200
    assert len(splits.questions("validation")) == 60  # the source's own keeps them
    manifest = splits.manifest()
    assert len(manifest["removed_because_in_test"]["train"]) == 20
    assert len(manifest["validation_in_test"]) == 20
    assert len(manifest["near_copies_of_test"]["train"]) >= 100
    assert any(one.startswith("train: 20 of 220 questions are in test too") for one in splits.notes)
    assert any(one.startswith("validation: 20 of 60 questions are in test too") for one in splits.notes)


def test_a_carved_validation_loses_its_leaks():
    tested, leaks = leaking(100)
    splits = Splits(ListSource(validation=[*leaks, *rows_of(100)], test=tested))
    assert len(splits.questions("train")) + len(splits.questions("validation")) == 100
    assert sum(map(len, splits.manifest()["removed_because_in_test"].values())) == 100


@given(vocabulary=st.integers(2, 60), lengths=st.lists(st.integers(0, 40), min_size=2, max_size=8), draw=st.randoms())
def test_near_copies_are_those_that_share_thirteen_words_in_a_row(vocabulary, lengths, draw):
    def text(length):
        return [f"w{draw.randrange(vocabulary)}" for _ in range(length)]

    def grams(one):
        texts = [text.lower().split() for text in (one.stem, *one.choices)]
        return {tuple(said[at : at + 13]) for said in texts for at in range(len(said) - 12)}

    stems = [text(length) for length in lengths]
    stems.append([*text(3), *stems[0][:14], *text(2)])
    questions = questions_of(*(row(" ".join(["Q", *one])) for one in stems))
    half = len(questions) // 2
    held_out, others = questions[:half], questions[half:]
    wanted = [one.id for one in others if any(grams(one) & grams(two) for two in held_out)]
    assert [one for one, _ in HeldOut(held_out).near_copies(others)] == wanted


def test_a_lone_test_file_is_asked_whole_and_split_for_a_fit():
    rows = [*rows_of(200), *rows_of(200)[:50]]
    whole = Splits(ListSource(test=rows))
    assert len(whole.questions("test")) == 250
    assert whole.alone_line == ""
    splits = Splits(ListSource(test=rows))
    sizes = {name: len(splits.questions(name)) for name in ("train", "validation", "test")}
    assert sum(sizes.values()) == 250
    assert 120 < sizes["train"] < 180
    contents = [{one.content_hash for one in splits.questions(name)} for name in sizes]
    assert sum(map(len, contents)) == len(set.union(*contents))
    assert splits.manifest()["split_from_test"] is True
    said = ", ".join(f"{name} {size}" for name, size in sizes.items())
    assert splits.alone_line == f"no train and validation in the data, test questions split by content hash: {said}"
    assert whole.questions("test") != splits.questions("test")


def test_train_without_validation_is_carved():
    splits = Splits(ListSource(train=rows_of(200), test=rows_of(4, start=300)))
    sizes = [len(splits.questions(name)) for name in ("train", "validation", "test")]
    assert sizes[0] + sizes[1] == 200
    assert 25 < sizes[1] < 55
    assert sizes[2] == 4
    assert splits.manifest()["carved_from_train"] is True
