"""What a command ends with: how the heads did beside the pretrained router, where the run is, and what comes next."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.errors import DataError
from moe_tune.callbacks.question_records import accuracy_line
from moe_tune.reports.table import interval
from moe_tune.runs.answers import BASE, BEST, questions_file, tested_questions_file
from moe_tune.stats.paired import PairedResult, compare_paired
from moe_tune.tracking.wandb_logger import note_gains


def tell(lines: Iterable[str]) -> None:
    """Print lines, once for all processes."""
    for line in lines:
        rank_zero_info(line)


def fit_ending(run: Path, *, trained: bool, tests: Sequence[str]) -> list[str]:
    """Return the last lines of a fit: validation and test beside the pretrained router, the run, the next command.

    Args:
        run: The run directory.
        trained: Whether something was trained, so that validation was not told yet, but every epoch's in its line.
        tests: The names of the test splits.
    """
    lines = []
    best = questions_file(run, "validation", BEST)
    if trained and best.is_file():
        lines.append(accuracy_line("validation", pd.read_parquet(best)))
    compared = against_pretrained(run, ["validation", *tests])
    following = [f"next: python -m moe_tune compare {shlex.quote(str(run))}"] if compared else []
    return [*lines, *compared, f"run: {run}", *_offline_parts(run), *following]


def _offline_parts(run: Path) -> list[str]:
    """Return how to send a fit to W&B that went on offline, where each part is a run of its own."""
    parts = list((run / "wandb").glob("offline-run-*"))
    if len(parts) < 2:
        return []
    folders = f"{shlex.quote(str(run / 'wandb'))}/offline-run-*"
    return [f"this fit has {len(parts)} offline parts in one W&B group, metrics.jsonl is whole: wandb sync {folders}"]


def against_pretrained(run: Path, splits: Iterable[str]) -> list[str]:
    """Return a line for each split that both were asked; a W&B run of this process gets the differences, too."""
    results = {split: paired_with_pretrained(run, split) for split in splits}
    compared = {split: result for split, result in results.items() if result is not None}
    note_gains(compared)
    return [paired_line(split, result) for split, result in compared.items()]


def paired_with_pretrained(run: Path, split: str) -> PairedResult | None:
    """Return how the tested heads did on a split beside the pretrained router, question by question.

    Returns:
        ``None`` where one of them was not asked, or there is only one question to speak of.
    """
    mine, base = tested_questions_file(run, split), questions_file(run, split, BASE)
    if not (mine.is_file() and base.is_file()):
        return None
    both = pd.read_parquet(mine).merge(pd.read_parquet(base)[["id", "prediction"]], on="id", suffixes=("", "_base"))
    gold_Q = both["gold"].to_numpy()
    right_Q, before_Q = (np.asarray(both[name] == gold_Q) for name in ("prediction", "prediction_base"))
    try:
        return compare_paired(before_Q[None], right_Q[None], list(both["content_hash"]), list(both["subject"]), [0])
    except DataError:
        return None


def paired_line(split: str, result: PairedResult) -> str:
    """Return what a paired comparison with the pretrained router says, as a line."""
    before, ends = 100 * result.baseline_accuracy, interval(*result.told_ci95, "+.1f")
    how = "no answer gained or lost, exact binomial bound, 95 %" if result.unchanged else "paired, 95 % interval"
    return (
        f"{split} against the pretrained router's {before:.1f} %: {100 * result.diff:+.1f} points {ends}, "
        f"{result.decision} (n {result.n:,}, {how})"
    )
