"""What a fit's validation came to: at the epoch of the checkpoint that is tested, and at the last one."""

import math
from pathlib import Path

from moe_tune.runs.checkpoint import seen_by
from moe_tune.runs.directory import RunDirectory
from moe_tune.runs.metrics_file import logged_rows

LAST = "last/"
"""What the keys of the last epoch begin with."""


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of a run that is tested, before a fit's end ``best.ckpt``; ``None`` if there is none."""
    tested = Path(str(RunDirectory(folder).manifest.get("tested_checkpoint", "best.ckpt")))
    # The manifest may name the place where the run was made; inside it the checkpoint's name is enough.
    return next((one for one in (folder / "checkpoints" / tested.name, tested) if one.is_dir()), None)


def validation_summary(folder: Path) -> dict[str, float]:
    """Return every validation key's value at the epoch of the best checkpoint, and of the last epoch as ``last/<key>``.

    Without such a checkpoint, as of a head with nothing to train, the last epoch is the best.
    """
    checkpoint = best_checkpoint(folder)
    last = validation_at(folder, None)
    best = last if checkpoint is None else validation_at(folder, seen_by(checkpoint))
    return best | {f"{LAST}{key}": value for key, value in last.items()}


def validation_at(folder: Path, seen: tuple[int, int | None] | None) -> dict[str, float]:
    """Return the last value of every validation key among what a checkpoint has seen.

    Args:
        folder: The run directory.
        seen: Its optimiser steps and validations, as ``seen_by`` says; ``None`` takes the whole history, and so does a
            checkpoint without a step: a head that trains nothing is saved before it is validated.
    """
    values: dict[str, float] = {}
    for number, (step, logged) in enumerate(_validations(folder / "metrics.jsonl")):
        # The history calls a step by its number from 0.
        if seen is None or not seen[0] or (step < seen[0] if seen[1] is None else number < seen[1]):
            values |= logged
    return values


def _validations(file: Path) -> list[tuple[int, dict[str, float]]]:
    found: list[tuple[int, dict[str, float]]] = []
    for row in logged_rows(file):
        pairs = ((key, value) for key, value in row.items() if key.startswith(("validation/", "validation_text/")))
        if values := {key: math.nan if value is None else float(value) for key, value in pairs}:
            step = int(row["step"] or 0)
            if not found or step >= found[-1][0]:  # a later `validate` adds its own at step 0
                found.append((step, values))
    return found
