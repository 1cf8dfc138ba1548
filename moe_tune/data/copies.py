"""Which questions are the same as others but for case, white space and order of choices, and which are nearly so."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moe_tune.data.question import Question, text_hash

GRAM = 13
"""Words in a row that two questions share if one is a near-copy of the other, as in GPT-3's contamination study."""
CHUNK = 2048
"""Questions whose bytes are in memory at a time, 8 numbers each."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 2**64))
_IN_WORD = np.array([chr(byte).isalnum() or byte == ord("_") or byte > 127 for byte in range(256)])
"""Bytes of UTF-8 that words are made of: letters and digits, and all that is not ASCII."""


def normalised(text: str) -> str:
    r"""Return a text without differences of case, white space and Unicode form.

    Example:
        >>> normalised("  What\tIS it? ")
        'what is it?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def copy_key(question: Question) -> str:
    """Return a hash that two questions share if they are the same after normalisation, in any order of choices."""
    return text_hash(normalised(question.stem), *sorted(map(normalised, question.choices)))


class HeldOut:
    """Held-out questions, to be asked which others are copies or near-copies of them.

    Args:
        questions: The questions of the test split.

    Reference:
        Brown et al. 2020, Language Models are Few-Shot Learners, arXiv 2005.14165, appendix C.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self._keys = {copy_key(one) for one in questions}

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        parts = [(start + owner_G, gram_G) for start, owner_G, gram_G in _grams(self.questions)]
        owner_N = np.concatenate([np.empty(0, np.int64), *(owner_G for owner_G, _ in parts)])
        gram_N = np.concatenate([np.empty(0, np.uint64), *(gram_G for _, gram_G in parts)])
        order_N = np.argsort(gram_N, kind="stable")
        return owner_N[order_N], gram_N[order_N]

    def copies(self, questions: Iterable[Question]) -> list[str]:
        """Return the ids of the questions that are held out too, after normalisation."""
        return [one.id for one in questions if copy_key(one) in self._keys]

    def near_copies(self, questions: Sequence[Question]) -> list[tuple[str, str]]:
        """Return the id of each question that shares 13 words in a row with a held-out one, and the id of that one.

        Words of the stem, and of each choice by itself, are compared without case and punctuation, by 64-bit hashes.
        """
        owner_N, gram_N = self._sorted
        found = []
        for start, owner_G, gram_G in _grams(questions) if len(gram_N) else ():
            place_G = np.minimum(np.searchsorted(gram_N, gram_G), len(gram_N) - 1)
            shared_G = gram_N[place_G] == gram_G
            own, first = np.unique(owner_G[shared_G], return_index=True)
            other = owner_N[place_G[shared_G][first]]
            found += [(questions[start + one].id, self.questions[two].id) for one, two in zip(own, other, strict=True)]
        return found


def _grams(questions: Sequence[Question]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint64]]]:
    # For some questions at a time: where they start, which of them owns each 13-gram, and its hash.
    for start in range(0, len(questions), CHUNK):
        some = questions[start : start + CHUNK]
        owner_X = np.repeat(np.arange(len(some)), [1 + len(one.choices) for one in some])
        # NUL occurs in no question: it parts their texts.
        bytes_C = np.frombuffer(
            "\0".join(text for one in some for text in (one.stem, *one.choices)).casefold().encode(), np.uint8
        )
        text_W, hash_W = _words(bytes_C)
        grams = len(hash_W) - GRAM + 1
        if grams < 1:
            continue
        hash_G = np.zeros(grams, dtype=np.uint64)
        for offset in range(GRAM):
            hash_G = hash_G * _FACTOR + hash_W[offset : offset + grams]
        within_G = text_W[:grams] == text_W[GRAM - 1 :]
        yield start, owner_X[text_W[:grams][within_G]], hash_G[within_G]


def _words(bytes_C: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    # Which text each word belongs to, and its hash: sum_i (byte_i + 1) f^i from the word's start, mixed.
    padded_C = np.concatenate([[False], _IN_WORD[bytes_C], [False]])
    start_W, end_W = (np.flatnonzero(edge) for edge in (~padded_C[:-1] & padded_C[1:], padded_C[:-1] & ~padded_C[1:]))
    power_C, back_C = (
        np.cumprod(np.concatenate([[np.uint64(1)], np.full(len(bytes_C), one)]), dtype=np.uint64)
        for one in (_FACTOR, _INVERSE)
    )
    terms_C = (bytes_C.astype(np.uint64) + np.uint64(1)) * power_C[:-1]
    sums_C = np.concatenate([[np.uint64(0)], np.cumsum(terms_C, dtype=np.uint64)])
    hash_W = (sums_C[end_W] - sums_C[start_W]) * back_C[start_W]
    return np.searchsorted(np.flatnonzero(bytes_C == 0), start_W), _mixed(hash_W)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # splitmix64, so that sums of some hashes are not those of others by chance.
    mixed = values * _FACTOR
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
