"""MMLU's columns."""

from typing import Any

from moe_tune.data.formats.format import QuestionFormat, Reading, Row
from moe_tune.data.formats.values import answer_of, choices_of


class Mmlu(QuestionFormat):
    """``question``, ``choices`` (a list) and ``answer`` (an index from 0 or a letter), with or without ``subject``.

    Reference:
        Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300.
    """

    name = "MMLU"
    columns = ("question", "choices", "answer")

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        choices, labels = choices_of(row["choices"])
        answer = answer_of(row[self.columns[2]], choices, labels, reading.answers_from)
        return {"question": row["question"], "choices": choices, "answer": answer}
