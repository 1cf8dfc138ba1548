"""What texts and short answers have in common in a comparison: tables that all runs keep of one source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

import pandas as pd

from moe_tune.compare.runs import Run

R = TypeVar("R")


def compared_by_all(
    arms: Mapping[str, Sequence[Run]],
    tables: Callable[[Run], Mapping[str, pd.DataFrame]],
    words: tuple[str, str],
    require_same: Callable[[Run, Run, str], None],
    compare: Callable[[str, str], R],
) -> tuple[dict[str, dict[str, R]], tuple[str, ...]]:
    """Compare every arm with the baseline on each source that all runs read.

    Args:
        arms: The runs of each arm by seed, the baseline first.
        tables: Gives what a run keeps, by source.
        words: What a source is called, and one item of it.
        require_same: Refuses two runs that read different items under one name.
        compare: Gives the result of an arm on a source, by their names.

    Returns:
        The results by source and arm, and a sentence for each source that is not compared.

    Raises:
        DataError: Runs read different items under one name.
    """
    what, item = words
    everyone = [run for runs in arms.values() for run in runs]
    results: dict[str, dict[str, R]] = {}
    notes: list[str] = []
    for name in dict.fromkeys(name for run in everyone for name in tables(run)):
        lacking = [run.label for run in everyone if name not in tables(run)]
        if lacking:
            notes.append(f"The {what} {name} is not compared: {', '.join(lacking)} did not read it.")
            continue
        for run in everyone:
            require_same(everyone[0], run, name)
        if tables(everyone[0])[name]["content_hash"].nunique() < 2:
            notes.append(f"The {what} {name} is not compared: it is a single {item}.")
            continue
        results[name] = {arm: compare(arm, name) for arm in arms}
    return results, tuple(notes)


def plain(result: object) -> dict[str, Any]:
    """Return a result as plain values for JSON."""
    assert is_dataclass(result)
    assert not isinstance(result, type)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(result).items()}
