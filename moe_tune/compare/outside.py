"""Logs of other programs as arms: lm-eval's samples, or a table of questions with correctness or log-probabilities."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moe_tune.base.checkpoint_folder import MANIFEST
from moe_tune.base.errors import DataError
from moe_tune.compare.answer_tables import read_rows, tabulated_answers
from moe_tune.compare.lm_eval_samples import GROUP, METRIC, SampleFacts, group_of, sample_facts, sampled_answers
from moe_tune.compare.logged_answers import LoggedAnswer, refuse_contradictions
from moe_tune.compare.logged_questions import LoggedQuestion, logged_questions, place_of
from moe_tune.compare.runs import ROUTING_COLUMNS, Run
from moe_tune.data.folder_layout import SplitFile, newest_samples
from moe_tune.data.formats.wrapped import wrapper_of
from moe_tune.data.question import text_hash
from moe_tune.data.raw_tables import SUFFIXES

SPLIT = "test"
WRONG = -1
"""The answer of a question that was answered wrong where the log does not say how."""
HEAD = "outside log"
TABLE = "outside"
"""The protocol of a table, which does not tell how its questions were asked."""


@dataclass(frozen=True, slots=True)
class _Logged:
    """One question with its answer."""

    question: LoggedQuestion
    answer: LoggedAnswer
    given: int | None
    gold: int | None
    right: bool


def is_outside(path: Path) -> bool:
    """Return whether an arm is a log of another program: a file of a table, or a folder of lm-eval's samples."""
    if path.is_dir():
        return not (path / MANIFEST).is_file() and bool(newest_samples(path))
    return path.is_file() and path.suffix in SUFFIXES


def load_outside(path: Path) -> Run:
    """Read a log of another program as a run without routing, whose split is ``test`` until runs say otherwise.

    Raises:
        DataError: It is damaged, holds several tasks, lacks questions or answers, or contradicts itself.
    """
    files, group = _files(path)
    logged: list[_Logged] = []
    facts: list[SampleFacts] = []
    notes: list[str] = []
    ways: dict[str, None] = {}
    for file in files:
        table = read_rows(file.path)
        if not table.rows:
            raise DataError(f"expected questions but got no rows ({file.path}). Hint: give a file that has some.")
        if wrapper_of(table.columns) is None:
            answers, way = tabulated_answers(table), TABLE
        else:
            facts.append(sample_facts(file.path))
            answers, metric = sampled_answers(table)
            way = f"lm-eval:{group or facts[-1].task}" + ("" if metric == METRIC else f", {metric}")
        ways[way] = None
        questions, left_out = logged_questions(table, file)
        notes += [f"{file.path.name}: rows left out: {left_out}."] if left_out else []
        logged += _joined(questions, answers, file.path, checked=way != TABLE)
    frame, known = _frame(logged)
    return Run(
        path,
        _manifest(path, files, ", ".join(ways), facts, {"known": known, "notes": notes}),
        {},
        {SPLIT: frame},
        {SPLIT: pd.DataFrame(columns=list(ROUTING_COLUMNS))},
    )


def _files(path: Path) -> tuple[list[SplitFile], str | None]:
    """Return the files of a log with the subject that their names tell, and lm-eval's group if they are of several."""
    if path.is_file():
        return [SplitFile(path)], None
    newest = newest_samples(path)
    group = group_of(newest) if len(newest) > 1 else None
    if len(newest) > 1 and group is None:
        raise DataError(
            f"expected the samples of one task but got those of {sorted(newest)} ({path}). "
            f"Hint: give one file, such as {min(newest.values())}."
        )
    return [SplitFile(file, task.removeprefix(f"{group or GROUP}_")) for task, file in newest.items()], group


def _joined(
    questions: dict[str, LoggedQuestion], answers: list[LoggedAnswer], file: Path, *, checked: bool
) -> list[_Logged]:
    """Return questions with their answers; those that were checked by the log's own targets are not checked again."""
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
        found.append(_Logged(question, answer, given if usable else None, gold, right))
    if not checked:
        said = "the most probable choice" if answers[0].log_probs else "the prediction"
        refuse_contradictions(file, wrong, len(answers), "correct", f"{said} is the right one")
    if not found:
        raise DataError(f"expected questions but every row is left out ({file}). Hint: give a file that has some.")
    return found


def _frame(logged: list[_Logged]) -> tuple[pd.DataFrame, str]:
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


def _manifest(
    path: Path, files: list[SplitFile], way: str, facts: list[SampleFacts], about: dict[str, Any]
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.name.encode() + b"\x1f" + hashlib.sha256(file.path.read_bytes()).digest())
    where = path.resolve()
    models, shots = {one.model for one in facts} - {""}, {one.few_shot for one in facts}
    model = models.pop() if len(models) == 1 else ""
    own = where.name if path.is_dir() else where.parent.name if facts else where.stem
    kind = "lm-eval samples" if facts else "table"
    prompts = {SPLIT: {"few_shot": next(iter(shots))}} if len(shots) == 1 and None not in shots else {}
    return {
        "name": model.rstrip("/").rpartition("/")[2] or own,
        "head": HEAD,
        "scope": "unknown",
        "layers": [],
        "trainable_parameters": 0,
        "seed": 0,
        "base": {"path": model} if model else {},
        "protocols": {SPLIT: way},
        "status": "evaluated",
        "data": {
            "source": {"class": kind, "arguments": {"path": str(path)}, "revision": f"sha256:{digest.hexdigest()}"},
            "prompts": prompts,
        },
        "outside": {**about, "label": f"{where.parent.name}/{where.name}"},
    }
