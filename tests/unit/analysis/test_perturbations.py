"""Laws of the small changes: what may differ, what may not, and that a seed decides the rest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_tune.analysis.perturbations import (
    CHANGES,
    Change,
    double_a_space,
    misspell,
    replace_by_synonyms,
    reverse,
    shift_choices,
    space_behind_stem,
    synonyms,
)
from moe_tune.data.protocol import known_protocols, load_protocol
from moe_tune.data.question import number_questions

LETTER = st.sampled_from("abcdeABCDEé. ?1+\n")
TEXTS = st.text(LETTER, min_size=1, max_size=60).filter(str.strip)
QUESTIONS = st.builds(
    lambda stem, choices, answer: number_questions([("sums", stem, tuple(choices), answer % len(choices))])[0],
    TEXTS,
    st.lists(TEXTS, min_size=2, max_size=8),
    st.integers(0, 7),
)
OF_QUESTIONS = (double_a_space, misspell, replace_by_synonyms, shift_choices)


def ask(stem, choices=("one", "two", "three"), answer=1):
    return number_questions([("sums", stem, choices, answer)])[0]


@pytest.mark.parametrize("change", OF_QUESTIONS)
@given(question=QUESTIONS)
def test_a_change_is_a_function_of_the_question_and_keeps_the_right_answer(change, question):
    came = change(question)
    assert came == change(replace(question))
    assert came.choices[came.answer] == question.choices[question.answer]
    assert sorted(came.choices) == sorted(question.choices)
    assert (came.id, came.subject) == (question.id, question.subject)


@given(question=QUESTIONS)
def test_white_space_is_all_that_white_space_changes(question):
    came = double_a_space(question)
    inner = question.stem.strip()
    assert came.stem.split() == question.stem.split()
    assert len(came.stem) == len(inner) + (" " in inner)


@pytest.mark.parametrize("name", known_protocols())
def test_the_trailing_space_is_in_the_prompt_although_protocols_strip_stems(name):
    protocol, question = load_protocol(name), ask("Which one?")
    usual, came = protocol.prompt(question), space_behind_stem(protocol).prompt(question)
    assert came == usual.replace("Which one?", "Which one? ")
    assert came != usual


@given(question=QUESTIONS)
def test_typos_swap_neighbouring_letters_in_at_most_two_long_words(question):
    stem, came = question.stem, misspell(question).stem
    assert len(came) == len(stem)
    places = [place for place in range(len(stem)) if stem[place] != came[place]]
    for first, second in zip(places[::2], places[1::2], strict=True):
        assert second == first + 1
        assert (came[first], came[second]) == (stem[second], stem[first])
        assert stem[first : second + 1].isalpha()
    assert len(places) <= 4


def test_typos_fall_on_two_different_words_where_there_are_two():
    words = ["Which", "planets", "circle", "the", "sun,", "oooooo?"]
    came = misspell(ask(" ".join(words))).stem.split()
    differ = [word for word, other in zip(words, came, strict=True) if word != other]
    assert len(differ) == 2
    assert set(differ) <= {"Which", "planets", "circle"}
    assert misspell(ask("Who is it?")).stem == "Who is it?"


def test_the_question_decides_where_typos_are():
    stems = {misspell(ask("Which planets circle the sun?", (str(index), "two"), 0)).stem for index in range(20)}
    assert len(stems) > 5


def test_the_list_of_synonyms_is_plain_and_has_no_chains():
    pairs = synonyms()
    assert 140 <= len(pairs) <= 200
    assert all(word.isalpha() and word.islower() for pair in pairs.items() for word in pair)
    assert not set(pairs) & set(pairs.values())


@given(words=st.lists(st.sampled_from([*synonyms(), *synonyms().values(), "the", "of"]), min_size=1, max_size=12))
def test_synonyms_replace_whole_words_of_the_list_and_twice_is_once(words):
    once = replace_by_synonyms(ask(" ".join(words)))
    assert once.stem.split() == [synonyms().get(word, word) for word in words]
    assert replace_by_synonyms(once) == once


def test_synonyms_keep_a_capital_and_leave_parts_of_words_and_capitals():
    stem = "Describe a careful-looking CAR; uncareful cars are Careful."
    assert replace_by_synonyms(ask(stem)).stem == "Depict a cautious-looking CAR; uncareful cars are Cautious."


@given(question=QUESTIONS)
def test_choices_come_round(question):
    came = question
    for _ in question.choices:
        came = shift_choices(came)
    assert came == question


@given(question=QUESTIONS, data=st.data())
def test_letters_mapped_back_are_those_of_the_unchanged_question(question, data):
    """For whoever answers by the choices' content, the mapped letter names the choice named before the change."""
    (change,) = (one for one in CHANGES if one.name == "choice order")
    pick = data.draw(st.integers(0, len(question.choices) - 1))
    came = change.question(question)
    letter = (pick - change.shift) % len(question.choices)
    assert came.choices[letter] == question.choices[pick]
    mapped = change.original_letters(np.array([letter, came.answer]), np.array([len(question.choices)] * 2))
    assert mapped.tolist() == [pick, question.answer]


def test_few_shot_order_is_reversed_and_that_of_fewer_than_two_examples_stays():
    examples = tuple(ask(f"Number {index}?") for index in range(5))
    assert reverse(examples) == examples[::-1]
    assert [tuple(reverse(examples[:count])) for count in (0, 1)] == [(), examples[:1]]


def test_each_change_alters_one_thing_and_has_a_name_of_its_own():
    assert len({one.name for one in CHANGES}) == len(CHANGES)
    for change in CHANGES:
        plain = Change(change.name)
        prompt_changed = (change.question, change.protocol, change.examples) != (
            plain.question,
            plain.protocol,
            plain.examples,
        )
        assert prompt_changed != change.numeric
