"""What the nano quiz asks: its word tables and, for each subject, how one question is drawn.

The tables are the same in every split and under every seed: a model can memorise that the capital of France is Paris.
What differs between questions is which fact is asked for and which wrong answers stand beside it.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NUMBERS = tuple(str(number) for number in range(100))
ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")


def _words(text: str) -> list[str]:
    return text.split()


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("-") for pair in text.split())


CAPITALS = _pairs(
    "France-Paris Italy-Rome Spain-Madrid Germany-Berlin Austria-Vienna Poland-Warsaw Greece-Athens Norway-Oslo "
    "Sweden-Stockholm Finland-Helsinki Portugal-Lisbon Ireland-Dublin Hungary-Budapest Egypt-Cairo Kenya-Nairobi "
    "Japan-Tokyo China-Beijing India-Delhi Cuba-Havana Peru-Lima Chile-Santiago Canada-Ottawa Russia-Moscow "
    "Turkey-Ankara"
)
OPPOSITES = _pairs(
    "hot-cold big-small tall-short fast-slow old-young rich-poor hard-soft wet-dry full-empty dark-bright "
    "early-late strong-weak loud-quiet open-closed happy-sad clean-dirty"
)
CATEGORIES = {
    "fruit": _words("apple pear plum cherry grape lemon mango peach"),
    "animal": _words("dog cat horse cow lion tiger rabbit mouse"),
    "color": _words("red blue green yellow black white purple brown"),
    "tool": _words("hammer saw drill wrench chisel axe shovel pliers"),
    "metal": _words("iron gold silver copper zinc tin lead nickel"),
    "instrument": _words("piano violin flute guitar drum harp trumpet cello"),
}


class Drawn(NamedTuple):
    """One question before its choices are put in order."""

    stem: str
    right: str
    wrong: tuple[str, ...]


def draw(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """Return ``count`` different items in random order.

    It uses only ``Random.random()``, the one method whose sequence Python promises to keep between versions.
    """
    pool = list(items)
    for place in range(count):
        other = place + int(rng.random() * (len(pool) - place))
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:count]


def _ask(rng: Random, stem: str, right: str, pool: Sequence[str]) -> Drawn:
    return Drawn(stem, right, tuple(text for text in draw(rng, pool, 4) if text != right)[:3])


def _addition(rng: Random) -> Drawn:
    first, second = (int(draw(rng, NUMBERS[1:31], 1)[0]) for _ in range(2))
    return _ask(rng, f"What is {first} + {second}?", str(first + second), NUMBERS[2:61])


def _multiplication(rng: Random) -> Drawn:
    first, second = (int(draw(rng, NUMBERS[2:10], 1)[0]) for _ in range(2))
    return _ask(rng, f"What is {first} * {second}?", str(first * second), NUMBERS[4:82])


def _capitals(rng: Random) -> Drawn:
    country = draw(rng, list(CAPITALS), 1)[0]
    return _ask(rng, f"What is the capital of {country}?", CAPITALS[country], list(CAPITALS.values()))


def _antonyms(rng: Random) -> Drawn:
    both = OPPOSITES | {second: first for first, second in OPPOSITES.items()}
    word = draw(rng, list(both), 1)[0]
    return _ask(rng, f"What is the opposite of {word}?", both[word], [other for other in both if other != word])


def _largest_of_four(rng: Random) -> Drawn:
    numbers = sorted(draw(rng, range(100), 4))
    return Drawn("Which number is the largest?", str(numbers[3]), tuple(map(str, draw(rng, numbers[:3], 3))))


def _successor_letter(rng: Random) -> Drawn:
    place = int(rng.random() * 25)
    others = [letter for letter in ALPHABET if letter != ALPHABET[place]]
    return _ask(rng, f"Which letter comes after {ALPHABET[place]}?", ALPHABET[place + 1], others)


def _even_number(rng: Random) -> Drawn:
    return _ask(rng, "Which number is even?", draw(rng, NUMBERS[::2], 1)[0], NUMBERS[1::2])


def _category_member(rng: Random) -> Drawn:
    category = draw(rng, list(CATEGORIES), 1)[0]
    others = [word for name, words in CATEGORIES.items() if name != category for word in words]
    return _ask(rng, f"Which word is a kind of {category}?", draw(rng, CATEGORIES[category], 1)[0], others)


SUBJECTS: dict[str, Callable[[Random], Drawn]] = {
    "addition": _addition,
    "multiplication": _multiplication,
    "capitals": _capitals,
    "antonyms": _antonyms,
    "largest_of_four": _largest_of_four,
    "successor_letter": _successor_letter,
    "even_number": _even_number,
    "category_member": _category_member,
}
"""The subjects in the order a split goes round them, each with the function that draws one question."""


def vocabulary() -> list[str]:
    """Return every word that a stem, a choice or a subject's name can hold, each once, in a fixed order.

    Example:
        >>> {"capital", "Paris", "99", "?", "successor"} <= set(vocabulary())
        True
    """
    stems = _words("What Which is the a + * ? capital opposite of number largest letter comes after even word kind")
    names = [word for subject in SUBJECTS for word in subject.split("_")]
    facts = [*CAPITALS, *CAPITALS.values(), *OPPOSITES, *OPPOSITES.values(), *CATEGORIES]
    members = [word for words in CATEGORIES.values() for word in words]
    return list(dict.fromkeys([*NUMBERS, *ALPHABET, *stems, *names, *facts, *members]))
