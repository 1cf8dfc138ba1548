"""The answers in a file of lm-eval's samples, as 0.4.13 writes them, and what the results beside it tell."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moe_tune.base.errors import DataError
from moe_tune.compare.logged_answers import LoggedAnswer, numbers_of, refuse_contradictions, truth_of
from moe_tune.data.folder_layout import SAMPLES
from moe_tune.data.raw_tables import RawTable

METRIC = "acc"
"""What says right and wrong of a choice by its log-likelihood, not by that of its length."""
OTHERS = ("exact_match", "acc_norm")
GROUP = "mmlu"
"""The group whose tasks are known by their names; the rest of the name is the subject."""
DATE = re.compile(r"_(\d{4}-\d\d-\d\dT.*)")


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What is known of samples beside their rows.

    Attributes:
        task: lm-eval's task.
        model: The model's name or path; empty where no file of results lies beside the samples.
        few_shot: Worked examples in each prompt; ``None`` where that is not told.
        base: The base model's path where the model is a run of this program; else empty.
    """

    task: str
    model: str = ""
    few_shot: int | None = None
    base: str = ""


def sample_facts(file: Path) -> SampleFacts:
    """Return what the name of a file of samples and the ``results_<date>.json`` beside it tell."""
    named = SAMPLES.fullmatch(file.stem)
    task = named["task"] if named else file.stem
    dated = DATE.search(file.stem)
    results = _results(file.parent / f"results_{dated[1]}.json") if dated else {}
    shots = results.get("n-shot")
    few_shot = shots.get(task) if isinstance(shots, Mapping) else None
    config = results.get("config")
    own = config.get("moe_tune") if isinstance(config, Mapping) else None
    base = str(own.get("base") or "") if isinstance(own, Mapping) else ""
    return SampleFacts(task, str(results.get("model_name") or ""), few_shot if type(few_shot) is int else None, base)


def group_of(files: Mapping[str, Path]) -> str | None:
    """Return the group of lm-eval that several tasks belong to, by their names or the results beside them.

    Args:
        files: The samples by task.
    """
    if all(task.startswith(f"{GROUP}_") for task in files):
        return GROUP
    for file in files.values():
        dated = DATE.search(file.stem)
        parts = _results(file.parent / f"results_{dated[1]}.json").get("group_subtasks") if dated else None
        known: Mapping[str, Any] = parts if isinstance(parts, Mapping) else {}
        if whole := next((group for group in known if set(files) <= _tasks(group, known)), None):
            return whole
    return None


def _tasks(group: str, parts: Mapping[str, Any]) -> set[str]:
    inner = parts.get(group) or ()
    deeper = (_tasks(one, {name: of for name, of in parts.items() if name != group}) for one in inner)
    return {str(one) for one in inner}.union(*deeper)


def sampled_answers(table: RawTable) -> tuple[list[LoggedAnswer], str]:
    """Return the answers of a file of samples, each document's once, and the metric that says which are right.

    Of a document that several filters were applied to the first counts.

    Raises:
        DataError: A document is there twice, no metric says right and wrong, or ``acc`` is not what the
            log-likelihoods say.
    """
    rows = list(table.rows)
    _refuse_repeats(rows, table.file)
    first: dict[Any, tuple[str, Mapping[str, Any]]] = {}
    for place, (where, row) in enumerate(rows):
        first.setdefault(row.get("doc_id", ("row", place)), (where, row))
    kept = list(first.values())
    metric = _metric([row for _, row in kept], table.file)
    found, wrong = [], []
    for where, row in kept:
        right, gold = truth_of(row[metric]), _target(row.get("target"))
        scores = _scores(row.get("filtered_resps")) if metric == METRIC else ()
        answer = int(np.argmax(scores)) if scores else None
        if answer is not None and gold is not None and gold < len(scores) and (answer == gold) != right:
            wrong.append(where)
        found.append(LoggedAnswer(where, right, scores, answer, gold, _prompt(row.get("arguments"))))
    refuse_contradictions(table.file, wrong, len(kept), metric, "the most probable choice is the target")
    return found, metric


def _results(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _refuse_repeats(rows: list[tuple[str, Mapping[str, Any]]], file: Path) -> None:
    counts = Counter((str(row["doc_id"]), str(row.get("filter"))) for _, row in rows if row.get("doc_id") is not None)
    twice = [number for (number, _), count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"expected each document once but got {len(twice):,} several times (doc_id {', '.join(twice[:3])}; "
            f"{file}). Hint: two files of samples in one? Give one of them."
        )


def _metric(rows: list[Mapping[str, Any]], file: Path) -> str:
    named = [str(one) for row in rows[:1] for one in row.get("metrics") or ()]
    for metric in dict.fromkeys((METRIC, *OTHERS, *named)):
        if all(metric in row and truth_of(row[metric]) is not None for row in rows):
            return metric
    raise DataError(
        f"expected a metric that is 0 or 1 in every row, such as {METRIC}, but got {named or 'none'} ({file}). "
        "Hint: give samples of a task that says right or wrong of each question."
    )


def _target(cell: Any) -> int | None:
    text = str(cell).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else None


def _scores(responses: Any) -> tuple[float, ...]:
    # One pair for each choice: its log-likelihood, and whether decoding greedily would have given it.
    if not isinstance(responses, list) or not all(isinstance(one, list) and len(one) == 2 for one in responses):
        return ()
    found = numbers_of([one[0] for one in responses])
    return found if len(found) > 1 else ()


def _prompt(arguments: Any) -> str:
    first = next(iter(arguments.values()), None) if isinstance(arguments, Mapping) else None
    return str(first.get("arg_0", "")) if isinstance(first, Mapping) else ""
