"""What controls ask: rotated choices keep their answer, shuffled labels keep their frequencies."""

from collections import Counter

import pytest
from tiny_quiz import ListSource, row, rows_of

from moe_tune.base.errors import ConfigError
from moe_tune.data.rotated_choices import RotatedChoices
from moe_tune.data.shuffled_labels import ShuffledLabels
from moe_tune.data.validation import validate_split


def asked(source, split="test"):
    return validate_split(source, split).questions


def quiz():
    mixed = [row(f"Odd {number}?", choices=("a", "b", "c"), answer=number % 3) for number in range(9)]
    return ListSource(choice_counts=(3, 4), train=rows_of(40) + mixed, test=rows_of(8, start=100) + mixed)


@pytest.mark.parametrize("by", range(5))
def test_rotation_moves_every_choice_and_the_right_one_stays_right(by):
    for before, after in zip(asked(quiz()), asked(RotatedChoices(quiz(), by)), strict=True):
        assert after.choices[after.answer] == before.choices[before.answer]
        assert after.choices[by % len(after.choices)] == before.choices[0]
        assert (after.stem, after.subject) == (before.stem, before.subject)


def test_all_rotations_put_the_right_answer_on_every_letter_once():
    answers = zip(*(asked(RotatedChoices(ListSource(test=rows_of(8)), by)) for by in range(4)), strict=True)
    assert all({one.answer for one in rotated} == {0, 1, 2, 3} for rotated in answers)


def test_shuffled_labels_keep_their_frequencies_and_leave_other_splits_alone():
    before, after = asked(quiz(), "train"), asked(ShuffledLabels(quiz(), 3), "train")

    def dealt(questions):
        return Counter((len(one.choices), one.answer) for one in questions)

    assert dealt(before) == dealt(after)
    assert [one.answer for one in before] != [one.answer for one in after]
    assert [one.id for one in before] == [one.id for one in after]
    assert asked(quiz()) == asked(ShuffledLabels(quiz(), 3))
    assert asked(ShuffledLabels(quiz(), 3), "train") == after
    assert asked(ShuffledLabels(quiz(), 4), "train") != after


def test_a_move_backwards_is_refused():
    with pytest.raises(ConfigError, match="0 or more letters"):
        RotatedChoices(quiz(), -1)
