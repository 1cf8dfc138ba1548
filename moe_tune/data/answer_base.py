"""Whether whole numbers as answers count from 0 or from 1: a quiz read by the wrong one looks sound and is not."""

import math
from collections.abc import Iterator, Sequence

from moe_tune.base.errors import DataError
from moe_tune.data.source import QuestionSource, RawRow

LEAST_CHANCE = 1e-6
"""Without an answer 0 among all rows, chance has to make that likelier than this."""

Numbered = tuple[int, int]
"""An answer that is a whole number, and the number of its row's choices."""


def numbered(row: RawRow) -> Numbered | None:
    """Return the answer of a row and its number of choices, where it is a whole number from 0 to that."""
    answer, choices = row.values.get("answer"), row.values.get("choices")
    if type(answer) is not int or not isinstance(choices, list | tuple) or not choices:
        return None
    return (answer, len(choices)) if 0 <= answer <= len(choices) else None


def check_answer_base(source: QuestionSource, split: str, answers: Sequence[Numbered]) -> str | None:
    """Return a doubt about a split whose answers hold no 0; its rows are left as they are.

    A right answer is the first one with chance 1/n, so ``p = prod (1 - 1/n)`` over all rows of the source.

    Args:
        source: Where the rows come from; its other splits are read only if this one has no answer 0.
        split: The split.
        answers: Its answers that are whole numbers.

    Raises:
        DataError: No answer of the source is 0 and one equals its row's number of choices, or p is below 1e-6.
    """
    if source.answers_from is not None or not answers or any(answer == 0 for answer, _ in answers):
        return None
    every = [*answers, *_others(source, split)]
    if any(answer == 0 for answer, _ in every):
        return None
    beyond = sum(answer == count for answer, count in every)
    chance = math.exp(sum(math.log1p(-1 / count) if count > 1 else -math.inf for _, count in every))
    seen = f"none of {len(every)} answers is 0"
    if beyond or chance < LEAST_CHANCE:
        sign = f"{beyond} are their row's number of choices" if beyond else f"chance {chance:.1g}"
        raise DataError(
            f"expected answers counted from 0 but {seen} and {sign}: counted from 1? ({source.revision()}, split "
            f"{split}). Hint: --data.source.answers_from 1, or 0 if they are right as they are."
        )
    return f"{seen} (chance {chance:.1g}): counted from 1? data.source.answers_from settles it"


def _others(source: QuestionSource, split: str) -> Iterator[Numbered]:
    for other in source.splits():
        for row in source.rows(other) if other != split else ():
            if (found := numbered(row)) is not None:
                yield found
