"""The question: what every source yields and everything downstream refers to by its id."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOP"
"""The answer letters; a question has 2 to 16 choices."""


@dataclass(frozen=True, slots=True)
class Question:
    """One multiple-choice question.

    Args:
        subject: The subject it belongs to, such as ``anatomy``.
        stem: The question's text without its choices.
        choices: 2 to 16 answer texts; the first is letter A.
        answer: Index of the right choice, from 0.
        id: First 16 hex digits of sha256 over the NFC text of subject, stem and choices, plus an occurrence ordinal
            (``-1``, ``-2`` ...) for exact repeats within a split.
        content_hash: The same hash without the subject: equal hashes are the same question, for leakage,
            duplicates and clusters.
    """

    subject: str
    stem: str
    choices: tuple[str, ...]
    answer: int
    id: str
    content_hash: str

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return LETTERS[self.answer]


def text_hash(*texts: str) -> str:
    r"""Return the first 16 hex digits of sha256 over NFC-normalised texts, each ended by a unit separator.

    Example:
        >>> text_hash("cafe\u0301") == text_hash("caf\u00e9")
        True
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(unicodedata.normalize("NFC", text).encode())
        digest.update(b"\x1f")
    return digest.hexdigest()[:16]


def number_questions(rows: Iterable[tuple[str, str, tuple[str, ...], int]]) -> list[Question]:
    """Give ids and content hashes to (subject, stem, choices, answer) rows, in order."""
    seen: Counter[str] = Counter()
    questions = []
    for subject, stem, choices, answer in rows:
        key = text_hash(subject, stem, *choices)
        ordinal = seen[key]
        seen[key] += 1
        identifier = f"{key}-{ordinal}" if ordinal else key
        questions.append(Question(subject, stem, choices, answer, identifier, text_hash(stem, *choices)))
    return questions


def one_letter(answers: Iterable[int]) -> str | None:
    """Return a sentence if several answers are all the same letter; a model that does that has not read the questions.

    Example:
        >>> one_letter([1, 1, 1]), one_letter([1, 1, 0])
        ('all 3 are B', None)
    """
    given = list(answers)
    return f"all {len(given)} are {LETTERS[given[0]]}" if len(given) > 1 and len(set(given)) == 1 else None
