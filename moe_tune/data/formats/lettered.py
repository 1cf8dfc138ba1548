"""One column per choice, named by its letter."""

from typing import Any

from moe_tune.data.formats.format import QuestionFormat, Reading, Row
from moe_tune.data.formats.values import answer_of, filled
from moe_tune.data.question import LETTERS

COLUMNS = tuple(LETTERS.lower())


class Lettered(QuestionFormat):
    """``question``, ``A``, ``B``, ... and ``answer``, in either case, as in MMMLU, CMMLU and C-Eval.

    Empty cells at the end are no choices.

    Reference:
        Li et al. 2023, CMMLU, arXiv 2306.09212; Huang et al. 2023, C-Eval, arXiv 2305.08322.
    """

    name = "one column per choice"
    columns = ("question", *COLUMNS[:2], "answer")
    optional = (*COLUMNS[2:], "subject")

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        choices = filled([row.get(letter) for letter in COLUMNS])
        answer = answer_of(row["answer"], choices, counted_from=reading.answers_from)
        return {"question": row["question"], "choices": choices, "answer": answer}
