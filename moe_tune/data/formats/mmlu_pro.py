"""MMLU-Pro's columns."""

from typing import Any

from moe_tune.data.formats.format import BadRowError, QuestionFormat, Reading, Row
from moe_tune.data.formats.values import answer_of, choices_of
from moe_tune.data.question import LETTERS


class MmluPro(QuestionFormat):
    """``question``, ``options`` (3 to 10, a list or by letter), ``answer`` (a letter), ``answer_index``, ``category``.

    Where letter and index do not name the same option the row is bad.

    Reference:
        Wang et al. 2024, MMLU-Pro, arXiv 2406.01574.
    """

    name = "MMLU-Pro"
    columns = ("question", "options", "answer")
    optional = ("answer_index", "category")
    subject = "category"

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        choices, labels = choices_of(row["options"])
        answer = answer_of(row["answer"], choices, labels, reading.answers_from)
        again = row.get("answer_index")
        if again is not None:
            index = answer_of(again, choices, labels, reading.answers_from)
            place = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
            other = LETTERS.find(index) if isinstance(index, str) and len(index) == 1 else index
            if place != other:
                raise BadRowError(f"answer is {row['answer']!r} but answer_index {again!r}")
        return {"question": row["question"], "choices": choices, "answer": answer}
