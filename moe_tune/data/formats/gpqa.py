"""GPQA's columns."""

from typing import Any

from moe_tune.data.formats.format import QuestionFormat, Reading, Row
from moe_tune.data.formats.values import filled, shuffled
from moe_tune.data.question import LETTERS

RIGHT = "correct answer"
WRONG = tuple(f"incorrect answer {number}" for number in range(1, 16))


class Gpqa(QuestionFormat):
    """``Question``, ``Correct Answer`` and ``Incorrect Answer 1`` to ``3``; the order comes from the content's hash.

    Reference:
        Rein et al. 2023, GPQA, arXiv 2311.12022.
    """

    name = "GPQA"
    columns = ("question", RIGHT, WRONG[0])
    optional = (*WRONG[1:], "high-level domain")
    subject = "high-level domain"
    note = "choices shuffled by each question's content hash"

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        given = filled([row[RIGHT], *(row.get(name) for name in WRONG)])
        choices, right = shuffled(row["question"], given or [row[RIGHT]], 0)
        return {"question": row["question"], "choices": choices, "answer": LETTERS[right]}
