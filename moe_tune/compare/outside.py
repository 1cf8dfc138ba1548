"""Logs of other programs as arms: lm-eval's samples, or a table of questions with correctness or log-probabilities."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from moe_tune.base.checkpoint_folder import MANIFEST
from moe_tune.base.errors import DataError
from moe_tune.compare.answer_tables import read_rows, tabulated_answers
from moe_tune.compare.lm_eval_samples import GROUP, METRIC, SampleFacts, group_of, sample_facts, sampled_answers
from moe_tune.compare.logged_pairs import LoggedPair, answer_frame, joined
from moe_tune.compare.logged_questions import logged_questions
from moe_tune.compare.runs import ROUTING_COLUMNS, Run
from moe_tune.data.folder_layout import SplitFile, newest_samples
from moe_tune.data.formats.wrapped import wrapper_of
from moe_tune.data.raw_tables import SUFFIXES

SPLIT = "test"
HEAD = "outside log"
TABLE = "outside"
"""The protocol of a table, which does not tell how its questions were asked."""


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
    logged: list[LoggedPair] = []
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
        logged += joined(questions, answers, file.path, checked=way != TABLE)
    frame, known = answer_frame(logged)
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


def _manifest(
    path: Path, files: list[SplitFile], way: str, facts: list[SampleFacts], about: dict[str, Any]
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.name.encode() + b"\x1f" + hashlib.sha256(file.path.read_bytes()).digest())
    where = path.resolve()
    models, shots = {one.model for one in facts} - {""}, {one.few_shot for one in facts}
    model = models.pop() if len(models) == 1 else ""
    bases = {one.base or one.model for one in facts} - {""}
    base = bases.pop() if len(bases) == 1 else ""
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
        "base": {"path": base} if base else {},
        "protocols": {SPLIT: way},
        "status": "evaluated",
        "data": {
            "source": {"class": kind, "arguments": {"path": str(path)}, "revision": f"sha256:{digest.hexdigest()}"},
            "prompts": prompts,
        },
        "outside": {**about, "label": f"{where.parent.name}/{where.name}"},
    }
