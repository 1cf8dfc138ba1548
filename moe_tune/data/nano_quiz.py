"""The nano quiz: synthetic questions in MMLU's schema, made in a second and the same everywhere."""

from collections.abc import Iterator
from random import Random
from typing import Any

from moe_tune.base.errors import ConfigError, DataError, did_you_mean, require
from moe_tune.data.nano_facts import SUBJECTS, draw
from moe_tune.data.question import text_hash
from moe_tune.data.source import QuestionSource, RawRow

VERSION = "nano-quiz-1"
SPLIT_OF_DIGIT = dict(zip("0123456789abcdef", ["train"] * 8 + ["test"] * 4 + ["validation"] * 3 + ["dev"], strict=True))
"""The split that owns a question, by the first hex digit of its key."""
PATIENCE = 10_000
"""Draws in a row without a new question after which a split counts as exhausted."""


def split_of(stem: str, choices: tuple[str, ...]) -> str:
    """Return the one split a question may appear in, whatever the seed, the sizes and the order of its choices.

    Example:
        >>> split_of("What is 1 + 1?", ("2", "3", "4", "5")) == split_of("What is 1 + 1?", ("5", "4", "3", "2"))
        True
    """
    return SPLIT_OF_DIGIT[text_hash(stem, *sorted(choices))[0]]


class NanoQuiz(QuestionSource):
    """Eight synthetic subjects for the nano OLMoE: arithmetic, memorised facts and comparisons.

    A split goes round the subjects in turn; within a subject every block of four questions has each letter once. A
    larger split begins with the questions of the smaller one, and no split's size or content depends on another's.

    Args:
        train: Training questions, at least 1.
        validation: Validation questions, at least 1.
        test: Test questions, at least 1; 4,096 give a 95 % interval of 1.5 points at most.
        dev: Questions for worked examples, at least 1; the default is five per subject.
        seed: Chooses which questions are drawn; their split does not depend on it.

    Raises:
        ConfigError: A size is below 1, or more than the split can hold.

    Example:
        >>> row = next(NanoQuiz().rows("test"))
        >>> row.where, sorted(row.values)
        ('nano_quiz/test[0]', ['answer', 'choices', 'question', 'subject'])
    """

    declared_subjects = frozenset(SUBJECTS)
    answers_from = 0

    def __init__(
        self, train: int = 12_800, validation: int = 1_024, test: int = 4_096, dev: int = 40, seed: int = 0
    ) -> None:
        self.known_sizes = {"train": train, "validation": validation, "test": test, "dev": dev}
        self.seed = seed
        require(seed >= 0, "a seed from 0", seed, "NanoQuiz, seed", "the default is 0.")
        for split, size in self.known_sizes.items():
            if size < 1:
                raise ConfigError(
                    f"expected at least 1 question but got {size} (data.source.{split}). Hint: leave the key out."
                )

    def splits(self) -> tuple[str, ...]:
        return tuple(self.known_sizes)

    def revision(self) -> str:
        return f"{VERSION}-seed{self.seed}"

    def rows(self, split: str) -> Iterator[RawRow]:
        if split not in self.known_sizes:
            raise DataError(
                f"expected a split of the nano quiz but got {split!r} (NanoQuiz.rows). "
                f"Hint: {did_you_mean(split, self.known_sizes)}"
            )
        streams = [self._stream(split, subject) for subject in SUBJECTS]
        for index in range(self.known_sizes[split]):
            yield RawRow(f"nano_quiz/{split}[{index}]", next(streams[index % len(streams)]))

    def _stream(self, split: str, subject: str) -> Iterator[dict[str, Any]]:
        rng = Random(f"{self.revision()}/{split}/{subject}")  # a text seed: independent of Python's hash seed
        seen: set[tuple[str, ...]] = set()
        letters: list[int] = []
        misses = 0
        while misses < PATIENCE:
            stem, right, wrong = SUBJECTS[subject](rng)
            key = (stem, *sorted((right, *wrong)))
            if key in seen or split_of(stem, key[1:]) != split:
                misses += 1
                continue
            seen.add(key)
            misses = 0
            letters = letters or draw(rng, range(4), 4)
            answer = letters.pop()
            choices = [*wrong[:answer], right, *wrong[answer:]]
            yield {"question": stem, "subject": subject, "choices": choices, "answer": answer}
        raise ConfigError(
            f"expected at most about {len(seen) * len(SUBJECTS)} questions but got {self.known_sizes[split]} "
            f"(data.source.{split}). Hint: ask for fewer; subject {subject} has no more."
        )
