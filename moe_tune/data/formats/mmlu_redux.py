"""MMLU-Redux's columns."""

from typing import Any

from moe_tune.data.formats.format import LeftOutError, QuestionFormat, Reading, Row
from moe_tune.data.formats.mmlu import Mmlu
from moe_tune.data.formats.values import answer_of
from moe_tune.data.question import LETTERS

OK = "ok"
WRONG_KEY = "wrong_groundtruth"


class MmluRedux(QuestionFormat):
    """MMLU's columns and ``error_type``: only ``ok`` is asked; with ``corrected`` a wrong key gives way to the right.

    ``correct_answer`` may be an index from 0, a letter or the text of a choice; what is none of them stays left out.

    Reference:
        Gema et al. 2024, Are We Done with MMLU?, arXiv 2406.04127.
    """

    name = "MMLU-Redux"
    columns = ("question", "choices", "answer", "error_type")
    optional = ("subject", "correct_answer")

    def read(self, row: Row, reading: Reading) -> dict[str, Any]:
        values, kind = Mmlu().read(row, reading), row["error_type"]
        if kind == OK:
            return values
        if kind != WRONG_KEY or not reading.corrected:
            raise LeftOutError(f"error_type {kind}")
        answer = answer_of(row.get("correct_answer"), values["choices"])
        count = len(values["choices"]) if isinstance(values["choices"], list) else 0
        index = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
        if type(index) is not int or not 0 <= index < count:
            raise LeftOutError(f"error_type {kind} without one corrected key")
        return {**values, "answer": LETTERS[index], "changed": "a corrected key"}
