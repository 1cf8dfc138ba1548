"""Small changes of a prompt that leave its right answer what it was; each a pure function, seeded by the question."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moe_tune.base.strict_yaml import load_yaml
from moe_tune.data.nano_facts import draw
from moe_tune.data.protocol import PromptProtocol
from moe_tune.data.question import Question

T = TypeVar("T")

SYNONYMS = Path(__file__).with_name("synonyms.yaml")
WORD = re.compile(r"[^\W\d_]+")
LONG = 5
"""Fewest letters of a word that gets a typo: shorter ones are too easily turned into other words."""
TYPOS = 2
"""Words of a question that get a typo."""


def unchanged(value: T) -> T:
    """Return what was given."""
    return value


@dataclass(frozen=True, slots=True)
class Change:
    """A small change of how a question is asked or computed.

    Args:
        name: What it is called in tables.
        question: Changes the question asked; its id stays that of the question it was made from.
        protocol: Changes the text around the questions of the prompt.
        examples: Changes the worked examples of a prompt, given as those it holds, in order.
        shift: Places by which the choices move up; the first ones come round to the end.
        batch_size: Questions computed together; ``None`` is the quiz's own evaluation batch.
        other_dtype: Compute the base model in the other dtype: bfloat16 in place of float32, else float32.
    """

    name: str
    question: Callable[[Question], Question] = unchanged
    protocol: Callable[[PromptProtocol], PromptProtocol] = unchanged
    examples: Callable[[Sequence[Question]], Sequence[Question]] = unchanged
    shift: int = 0
    batch_size: int | None = None
    other_dtype: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the prompts stay what they were and only the arithmetic changes."""
        return self.batch_size is not None or self.other_dtype

    def original_letters(self, letter_Q: NDArray[np.intp], count_Q: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return which choice of the unchanged question each letter of the changed one stands for."""
        return (letter_Q + self.shift) % count_Q


def shift_choices(question: Question) -> Question:
    """Return the question with each choice one letter earlier, and the first as the last."""
    first, *others = question.choices
    return replace(question, choices=(*others, first), answer=(question.answer - 1) % len(question.choices))


def double_a_space(question: Question) -> Question:
    """Return the question with one of the spaces in its stem doubled."""
    stem = question.stem.strip()
    spaces = [place for place, letter in enumerate(stem) if letter == " "]
    for place in draw(_random("white space", question), spaces, min(1, len(spaces))):
        stem = f"{stem[:place]} {stem[place:]}"
    return replace(question, stem=stem)


def space_behind_stem(protocol: PromptProtocol) -> PromptProtocol:
    """Return the protocol with a trailing space behind every stem."""
    return replace(protocol, question=protocol.question.replace("stem}", "stem} "))


def misspell(question: Question) -> Question:
    """Return the question with two neighbouring letters swapped in each of two words of its stem."""
    rng = _random("typos", question)
    stem = question.stem
    words = [match for match in WORD.finditer(stem) if len(match[0]) >= LONG and _swaps(match)]
    for match in draw(rng, words, min(TYPOS, len(words))):
        (place,) = draw(rng, _swaps(match), 1)
        stem = stem[:place] + stem[place + 1] + stem[place] + stem[place + 2 :]
    return replace(question, stem=stem)


def replace_by_synonyms(question: Question) -> Question:
    """Return the question with every word of its stem that the fixed list holds replaced by its synonym."""

    def synonym(match: re.Match[str]) -> str:
        word = match[0]
        other = synonyms().get(word[0].lower() + word[1:], word)
        return other.capitalize() if word[0].isupper() and other != word else other

    return replace(question, stem=WORD.sub(synonym, question.stem))


def reverse(examples: Sequence[Question]) -> Sequence[Question]:
    """Return worked examples in the reverse order."""
    return tuple(reversed(examples))


@cache
def synonyms() -> dict[str, str]:
    """Return the fixed list: a word in lower case to what may stand in its place."""
    pairs: dict[str, str] = load_yaml(SYNONYMS)
    return pairs


CHANGES: tuple[Change, ...] = (
    Change("white space", question=double_a_space, protocol=space_behind_stem),
    Change("choice order", question=shift_choices, shift=1),
    Change("few-shot order", examples=reverse),
    Change("typos", question=misspell),
    Change("synonyms", question=replace_by_synonyms),
    Change("batch size", batch_size=1),
    Change("base dtype", other_dtype=True),
)
"""The changes an analysis makes, one after the other; never two at once."""


def _random(what: str, question: Question) -> Random:
    return Random(f"{what} {question.id}")  # a text seed: independent of Python's hash seed


def _swaps(word: re.Match[str]) -> list[int]:
    """Return where in the stem a letter of a word stands before another one."""
    start, letters = word.start(), word[0]
    return [start + place for place in range(len(letters) - 1) if letters[place] != letters[place + 1]]
