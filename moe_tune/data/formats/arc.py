"""ARC's columns."""

from typing import Any

from moe_tune.data.formats.format import QuestionFormat, Reading, Row
from moe_tune.data.formats.values import answer_of, choices_of


class Arc(QuestionFormat):
    """``question``, ``choices`` with ``text`` and ``label``, and ``answerKey``: one of the labels, letters or digits.

    Reference:
        Clark et al. 2018, Think you have Solved Question Answering?, arXiv 1803.05457.
    """

    name = "ARC"
    columns = ("question", "choices", "answerkey")

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        choices, labels = choices_of(row["choices"])
        answer = answer_of(row["answerkey"], choices, labels, reading.answers_from)
        return {"question": row["question"], "choices": choices, "answer": answer}
