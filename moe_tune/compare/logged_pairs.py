"""Questions of a log with their answers, and the table that a run's answers would be in."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.compare.logged_answers import LoggedAnswer, refuse_contradictions
from moe_tune.compare.logged_questions import LoggedQuestion, place_of
from moe_tune.data.question import text_hash

WRONG = -1
"""The answer of a question that was answered wrong where the log does not say how."""


@dataclass(frozen=True, slots=True)
class LoggedPair:
    """One question with its answer.

    Attributes:
        question: The question.
        answer: What the log says of its answer.
        given: The place of the answer that was given, where it is known and agrees with right and wrong.
        gold: The place of the right one, where it is known.
        right: Whether the answer is right.
    """

    question: LoggedQuestion
    answer: LoggedAnswer
    given: int | None
    gold: int | None
    right: bool


def joined(
    questions: dict[str, LoggedQuestion], answers: list[LoggedAnswer], file: Path, *, checked: bool
) -> list[LoggedPair]:
    """Return questions with their answers; those that were checked by the log's own targets are not checked again.

    Raises:
        DataError: A question has no right answer, right and wrong contradict the answers, or no row is left.
    """
    found, wrong = [], []
    for answer in answers:
        if (question := questions.get(answer.where)) is None:
            continue
        gold = question.gold if question.gold is not None else None if question.choices else answer.gold
        given = int(np.argmax(answer.log_probs)) if answer.log_probs else place_of(answer.given, question.choices)
        # The log's own choices may stand in another order than those of the question's layout.
        same_order = answer.gold is None or answer.gold == gold
        fits = not question.choices or not answer.log_probs or len(answer.log_probs) == len(question.choices)
        right = answer.right
        if gold is not None and fits and (given is not None or str(answer.given or "").strip()):
            right = given == gold if right is None else right
            wrong += [answer.where] if right != (given == gold) else []
        if right is None:
            raise DataError(
                f"expected a right answer for every question but got none ({file}, {answer.where}). Hint: add a column "
                "correct (1 or 0), or answer (a letter, or an index from 0) beside log_probs or prediction."
            )
        usable = same_order and fits and gold is not None and given is not None and right == (given == gold)
        found.append(LoggedPair(question, answer, given if usable else None, gold, right))
    if not checked:
        said = "the most probable choice" if answers[0].log_probs else "the prediction"
        refuse_contradictions(file, wrong, len(answers), "correct", f"{said} is the right one")
    if not found:
        raise DataError(f"expected questions but every row is left out ({file}). Hint: give a file that has some.")
    return found


def answer_frame(logged: list[LoggedPair]) -> tuple[pd.DataFrame, str]:
    """Return the table of answers, and what is known of each: ``log_probs``, ``prediction`` or ``correct``."""
    golds = all(one.gold is not None for one in logged)
    letters = golds and all(one.given is not None for one in logged)
    # In an order that follows from what is said, not from the file's: copies of a question are numbered by it.
    logged = sorted(
        logged,
        key=lambda one: (one.question.subject, one.question.content_hash, one.right, one.answer.log_probs),
    )
    seen: Counter[str] = Counter()
    rows = []
    for one in logged:
        question = one.question
        key = text_hash(question.subject, question.stem, *question.choices)
        gold = int(one.gold or 0) if golds else 0
        rows.append(
            {
                "id": f"{key}-{seen[key]}" if seen[key] else key,
                "content_hash": question.content_hash,
                "subject": question.subject,
                "gold": gold,
                "prediction": one.given if letters else gold if one.right else WRONG,
                "asked": question.asked,
                "stem": question.stem,
                "prompt": text_hash(one.answer.prompt) if one.answer.prompt else "",
            }
        )
        seen[key] += 1
    frame = pd.DataFrame(rows)
    frame["with_choices"] = all(one.question.choices for one in logged)
    scored = letters and all(one.answer.log_probs for one in logged)
    if scored:
        frame["log_probs"] = [list(one.answer.log_probs) for one in logged]
    known = "log_probs" if scored else "prediction" if letters else "gold" if golds else "correct"
    return frame.sort_values("id", ignore_index=True), known
