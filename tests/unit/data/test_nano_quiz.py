"""The nano quiz keeps its promises: separate splits, stable facts, one right answer, the same bits everywhere."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_tune.base.errors import ConfigError, DataError
from moe_tune.data.nano_facts import ALPHABET, CAPITALS, CATEGORIES, OPPOSITES, SUBJECTS
from moe_tune.data.nano_quiz import NanoQuiz, split_of
from moe_tune.data.question import Question, number_questions

FINGERPRINT = "64782a9904c23b77"


def ask(source, split):
    rows = [row.values for row in source.rows(split)]
    return number_questions((row["subject"], row["question"], tuple(row["choices"]), row["answer"]) for row in rows)


def judge(question: Question) -> list[bool]:
    """Say of each choice whether it is right, from the text alone."""
    words = question.stem.rstrip("?").split()
    match question.subject:
        case "addition":
            return [int(text) == int(words[2]) + int(words[4]) for text in question.choices]
        case "multiplication":
            return [int(text) == int(words[2]) * int(words[4]) for text in question.choices]
        case "capitals":
            return [text == CAPITALS[words[-1]] for text in question.choices]
        case "antonyms":
            return [OPPOSITES.get(text) == words[-1] or OPPOSITES.get(words[-1]) == text for text in question.choices]
        case "largest_of_four":
            return [int(text) == max(map(int, question.choices)) for text in question.choices]
        case "successor_letter":
            return [ord(text) == ord(words[-1]) + 1 for text in question.choices]
        case "even_number":
            return [int(text) % 2 == 0 for text in question.choices]
        case "category_member":
            return [text in CATEGORIES[words[-1]] for text in question.choices]
    raise AssertionError(question.subject)


@pytest.fixture(scope="module")
def splits():
    source = NanoQuiz()
    return {split: ask(source, split) for split in source.splits()}


def test_every_question_has_exactly_one_right_choice_and_no_repeats(splits):
    for questions in splits.values():
        for question in questions:
            verdicts = judge(question)
            assert verdicts.count(True) == 1, question
            assert verdicts[question.answer], question
            assert len(set(question.choices)) == 4, question


def test_splits_share_no_question_even_with_choices_reordered(splits):
    sets = {
        split: {(question.stem, *sorted(question.choices)) for question in questions}
        for split, questions in splits.items()
    }
    hashes = {split: {question.content_hash for question in questions} for split, questions in splits.items()}
    for split, questions in splits.items():
        assert len(sets[split]) == len(hashes[split]) == len(questions)
    for found in (sets, hashes):
        assert len(set.union(*found.values())) == sum(map(len, found.values()))


def test_splits_of_different_seeds_share_no_question(splits):
    other = {question.content_hash for question in ask(NanoQuiz(seed=1, train=6_400), "train")}
    assert not other & {question.content_hash for split in ("validation", "test", "dev") for question in splits[split]}


def test_sizes_and_revision_are_as_declared(splits):
    source = NanoQuiz()
    assert {split: len(questions) for split, questions in splits.items()} == source.known_sizes
    assert source.declared_subjects == set(SUBJECTS) == {question.subject for question in splits["test"]}
    assert source.choice_counts == {4}
    assert source.revision() != NanoQuiz(seed=1).revision()


def test_letters_are_balanced_within_every_subject(splits):
    for split in ("train", "validation", "test"):
        counts = Counter((question.subject, question.answer) for question in splits[split])
        assert set(counts.values()) == {len(splits[split]) // len(SUBJECTS) // 4}


def test_the_same_facts_are_asked_in_every_split(splits):
    stems = {
        split: {question.stem for question in splits[split] if question.subject in ("capitals", "antonyms")}
        for split in ("train", "validation", "test")
    }
    assert stems["train"] == stems["validation"] == stems["test"]
    assert len(stems["train"]) == len(CAPITALS) + 2 * len(OPPOSITES)


def test_word_tables_are_unambiguous():
    assert len(set(CAPITALS.values())) == len(CAPITALS)
    assert len({*OPPOSITES, *OPPOSITES.values()}) == 2 * len(OPPOSITES)
    members = [word for words in CATEGORIES.values() for word in words]
    assert len(set(members)) == len(members)
    assert all(ord(after) == ord(before) + 1 for before, after in pairwise(ALPHABET))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 2**31))
def test_a_larger_split_begins_with_the_smaller_and_leaves_the_others_alone(small, more, seed):
    first = NanoQuiz(train=small, test=20, seed=seed)
    second = NanoQuiz(train=small + more, test=20, validation=7, seed=seed)
    assert ask(second, "train")[:small] == ask(first, "train")
    assert ask(first, "test") == ask(second, "test")


@settings(max_examples=50)
@given(st.text(), st.lists(st.text(), min_size=2, max_size=4, unique=True), st.randoms())
def test_the_order_of_choices_does_not_move_a_question(stem, choices, rng):
    shuffled = choices.copy()
    rng.shuffle(shuffled)
    assert split_of(stem, tuple(choices)) == split_of(stem, tuple(shuffled))


def test_content_is_pinned_and_independent_of_the_hash_seed():
    code = (
        "import json; from moe_tune.data.nano_quiz import NanoQuiz; source = NanoQuiz(train=400, test=400);"
        "print(json.dumps([row.values for split in source.splits() for row in source.rows(split)]))"
    )
    for hash_seed in ("0", "123"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        canonical = json.dumps(json.loads(printed), sort_keys=True).encode()
        assert hashlib.sha256(canonical).hexdigest()[:16] == FINGERPRINT


def test_faults_name_what_is_wrong(monkeypatch):
    with pytest.raises(DataError, match=r"'tset'.*Did you mean test"):
        next(NanoQuiz().rows("tset"))
    with pytest.raises(ConfigError, match=r"got 0 \(data.source.train\)"):
        NanoQuiz(train=0)
    monkeypatch.setattr("moe_tune.data.nano_quiz.PATIENCE", 100)
    with pytest.raises(ConfigError, match=r"got 40000 \(data.source.dev\).*has no more"):
        list(NanoQuiz(dev=40_000).rows("dev"))
