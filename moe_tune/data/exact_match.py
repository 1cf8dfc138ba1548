"""Whether an answer says what is accepted: equal texts, once both are brought to one form."""

import string
from collections.abc import Iterable

ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation (of ASCII) and articles, its words one space apart.

    A text that consists of articles or of punctuation alone keeps them: the letter A is an answer.

    Example:
        >>> normalised(" The  Eiffel Tower."), normalised("A."), normalised("+")
        ('eiffel tower', 'a', '+')

    Reference:
        Rajpurkar et al., 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
        https://arxiv.org/abs/1606.05250, whose form it is but for texts of articles or punctuation alone.
    """
    lowered = text.lower()
    words = lowered.translate(_PUNCTUATION).split()
    return " ".join([one for one in words if one not in ARTICLES] or words or lowered.split())


def first_line(text: str) -> str:
    r"""Return what stands before the first line break, without white space around it.

    Example:
        >>> first_line(" Paris\nQuestion: and"), first_line("\nParis")
        ('Paris', '')
    """
    return text.partition("\n")[0].strip()


def exact_match(text: str, accepted: Iterable[str]) -> bool:
    """Return whether an answer equals one of the accepted texts, both normalised.

    Example:
        >>> exact_match("the Paris!", ["Paris"]), exact_match("Paris, France", ["Paris"])
        (True, False)
    """
    return normalised(text) in {normalised(one) for one in accepted}
