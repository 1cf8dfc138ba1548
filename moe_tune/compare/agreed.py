"""Logs of other programs beside runs and each other: the same questions by content, each log by a name of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from moe_tune.base.errors import DataError
from moe_tune.compare.logged_pairs import WRONG
from moe_tune.compare.outside import SPLIT, TABLE
from moe_tune.compare.runs import Run
from moe_tune.data.recognised import NO_SUBJECT

SHOWN, CHARACTERS = 2, 40
"""Questions that are named in a message, and how much of each."""


def agreed(runs: Sequence[Run]) -> tuple[list[Run], tuple[str, ...]]:
    """Return runs whose logs of other programs have the others' ids, subjects and right answers, and what to say of it.

    What agrees is the content of the questions; ids and subjects are those of the first run directory, or else of the
    log that tells most. Where a log says right and wrong alone, a wrong answer is -1.

    Raises:
        DataError: A log holds other questions.
    """
    logs = [run for run in runs if run.outside]
    if not logs:
        return list(runs), ()
    named = _named(list(runs))
    reference = next((run for run in named if not run.outside), None) or max(named, key=_telling)
    placed = [_placed(reference, run) if run.outside and run is not reference else run for run in named]
    placed = [_with_golds(placed, run) if run.outside else run for run in placed]
    return placed, _notes([run for run in placed if run.outside], reference)


def _telling(run: Run) -> tuple[bool, bool]:
    table = run.questions[SPLIT]
    return bool(table["with_choices"].all()), bool((table["subject"] != NO_SUBJECT).any())


def _named(runs: list[Run]) -> list[Run]:
    """Return runs of which each log has a name that nothing else has."""
    taken = Counter(name for run in runs for name in {run.name, *([] if run.outside else [run.path.resolve().name])})
    labels = Counter(run.label for run in runs)

    def name(run: Run) -> str:
        if taken[run.name] == 1:
            return run.name
        return run.label if labels[run.label] == 1 and not taken[run.label] else str(run.path)

    return [replace(run, manifest=run.manifest | {"name": name(run)}) if run.outside else run for run in runs]


def _placed(reference: Run, log: Run) -> Run:
    """Return a log whose questions are those of a split of the reference, with its ids and subjects.

    Raises:
        DataError: They are those of no split.
    """
    own = log.questions[SPLIT]
    splits = sorted(reference.questions, key=lambda name: (not name.startswith("test"), name))
    for split in splits:
        if (found := _like(reference.questions[split], own)) is not None:
            data = log.manifest["data"]
            prompts = {split: data["prompts"].get(SPLIT, {})}
            about = {"protocols": {split: log.manifest["protocols"][SPLIT]}, "data": data | {"prompts": prompts}}
            routing = {split: log.routing[SPLIT]}
            return replace(log, manifest=log.manifest | about, questions={split: found}, routing=routing)
    hashes = set(own["content_hash"])
    nearest = max(splits, key=lambda name: len(hashes & set(reference.questions[name]["content_hash"])))
    raise DataError(_other_questions(reference, log, nearest))


def _like(reference: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame | None:
    """Return a log's table with the ids and subjects of one with the same questions; ``None`` where they are others."""
    key = "content_hash"
    if Counter(reference[key]) != Counter(log[key]):
        key = "asked"
        if key not in reference or (reference["with_choices"].all() and log["with_choices"].all()):
            return None
        if set(reference[key]) != set(log[key]) or reference[key].duplicated().any() or log[key].duplicated().any():
            return None
    elif set(reference["id"]) == set(log["id"]):
        return log
    theirs, ours = (table.sort_values([key, "id"], ignore_index=True) for table in (reference, log))
    same = {name: theirs[name] for name in ("id", "content_hash", "subject")}
    return ours.assign(**same).sort_values("id", ignore_index=True)


def _with_golds(runs: list[Run], log: Run) -> Run:
    """Return a log that has the right answers of a run that tells them, where it says right and wrong alone."""
    split = next(iter(log.questions))
    telling = [run for run in runs if split in run.questions and _knows_golds(run)]
    own = log.questions[split]
    if _knows_golds(log) or not telling:
        return log
    gold = telling[0].questions[split]["gold"].to_numpy()
    prediction = np.where(own["prediction"] == own["gold"], gold, WRONG)
    return replace(log, questions={split: own.assign(gold=gold, prediction=prediction)})


def _knows_golds(run: Run) -> bool:
    return not run.outside or run.manifest["outside"]["known"] != "correct"


def _notes(logs: list[Run], reference: Run) -> tuple[str, ...]:
    notes: list[str] = [note for run in logs for note in run.manifest["outside"]["notes"]]
    unlettered = [run.label for run in logs if not run.letters_known]
    if unlettered:
        notes.append(f"Which wrong answer was given is not told by {', '.join(unlettered)}: it is -1 in flips.csv.")
    first = next((run for run in logs if run.path == reference.path), logs[0])
    for run in logs:
        notes += _asked_otherwise(first, run)
    if not reference.outside:
        ways = ", ".join(f"{run.label} ({next(iter(run.manifest['protocols'].values()))})" for run in logs)
        notes.append(f"Nothing shows that these logs asked the questions as the runs did: {ways}.")
    return tuple(dict.fromkeys(notes))


def _asked_otherwise(one: Run, other: Run) -> list[str]:
    (ours,), (theirs,) = one.questions.values(), other.questions.values()
    told = (ours["prompt"] != "").all() and (theirs["prompt"] != "").all()
    if told and set(ours["id"]) == set(theirs["id"]):
        count = int((ours["prompt"].to_numpy() != theirs["prompt"].to_numpy()).sum())
        ending = "worked examples, a chat template or another wording"
        said = f"{count:,} of {len(ours):,} prompts of {other.label} are not those of {one.label}: {ending}."
        return [said] if count else []
    (our_way,), (their_way,) = (run.manifest["protocols"].values() for run in (one, other))
    silent = "how those of a table were asked is not told"
    said = f"The questions of {one.label} were asked as {our_way}, those of {other.label} as {their_way}"
    if our_way == their_way:
        return []
    return [f"{said}: {silent}." if TABLE in (our_way, their_way) else f"{said}."]


def _other_questions(reference: Run, log: Run, split: str) -> str:
    ours, theirs = reference.questions[split], log.questions[SPLIT]
    key = "content_hash" if "asked" not in ours or bool(ours["with_choices"].all()) else "asked"
    counts = [Counter(table[key]) for table in (ours, theirs)]
    missing, extra = counts[0] - counts[1], counts[1] - counts[0]
    only = [
        f"{found.total():,} only in {run.label}{_stems(table, found, key)}"
        for run, table, found in ((reference, ours, missing), (log, theirs, extra))
        if found
    ]
    hint = "a log and what it is compared with hold the same questions and choices, word for word and all of them."
    if not theirs["with_choices"].all():
        hint = "without choices a question agrees with logs alone, and only where no text is there twice; add choices."
    return (
        f"expected the same {len(ours):,} questions but got {missing.total() + extra.total():,} that differ: "
        f"{', '.join(only)} (split {split}). Hint: {hint}"
    )


def _stems(table: pd.DataFrame, hashes: Counter[Any], key: str) -> str:
    if "stem" not in table:
        return ""
    stems = table.loc[table[key].isin(set(hashes)), "stem"].sort_values()[:SHOWN]
    texts = [" ".join(one.split()) for one in stems]
    return " (" + ", ".join(repr(one[:CHARACTERS] + "..." * (len(one) > CHARACTERS)) for one in texts) + ")"
