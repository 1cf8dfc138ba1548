"""What a fit's validation came to: at the epoch of the checkpoint that is tested, and at the last one."""

import json
import math
from pathlib import Path

from moe_tune.runs.checkpoint import seen_by
from moe_tune.runs.directory import RunDirectory

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
    seen = None if checkpoint is None else seen_by(checkpoint)
    best: dict[str, float] = {}
    last: dict[str, float] = {}
    for number, (step, values) in enumerate(_validations(folder / "metrics.jsonl")):
        last |= values
        # The history calls a step by its number from 0.
        if seen is None or (step < max(seen[0], 1) if seen[1] is None else number < seen[1]):
            best |= values
    return best | {f"{LAST}{key}": value for key, value in last.items()}


def _validations(file: Path) -> list[tuple[int, dict[str, float]]]:
    found: list[tuple[int, dict[str, float]]] = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else ():
        row = json.loads(line) if line.endswith("\n") else {}  # a killed process may have left half a line
        pairs = ((key, value) for key, value in row.items() if key.startswith("validation/"))
        if values := {key: math.nan if value is None else float(value) for key, value in pairs}:
            step = int(row["step"] or 0)
            if not found or step >= found[-1][0]:  # a later `validate` adds its own at step 0
                found.append((step, values))
    return found
