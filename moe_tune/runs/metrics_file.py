"""metrics.jsonl: every logged value, one JSON line per step; the record that needs no other program to read."""

import json
import math
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from moe_tune.base.errors import DataError
from moe_tune.base.published import published
from moe_tune.base.resources import writing

VALIDATED = ("validation/", "validation_text/")
"""What the keys of a validation begin with; each of the two has a row of its own."""


def logged_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a history, none without one; half a line, as a killed process may leave, is left out.

    Raises:
        DataError: A line is no JSON object.
    """
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    return [_row(line, file, number) for number, line in enumerate(lines, start=1) if line.endswith(b"\n")]


def _row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(
            f"expected a JSON object but got {line[:60]!r} ({file}, line {number}). Hint: delete the line if a crash "
            "of the machine left it, or --fresh true runs the fit again."
        )
    return row


class MetricsFile(Logger):
    """A Lightning logger that appends to ``metrics.jsonl``.

    Each line holds ``step``, ``time`` (seconds since the epoch) and the logged values; NaN and infinities become null,
    so that every line is strict JSON.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.jsonl"

    @property
    def name(self) -> str:
        """The logger's name."""
        return "metrics_file"

    @property
    def version(self) -> str:
        """Runs are told apart by their directory."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line."""
        if rank_zero_only.rank != 0:
            return
        values = {key: float(value) if math.isfinite(value) else None for key, value in sorted(metrics.items())}
        line = {"step": step, "time": round(time.time(), 3)} | values
        with writing(self.file), self.file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, allow_nan=False) + "\n")

    def forget_from(self, step: int, validations: int | None = None) -> None:
        """Drop the lines of what a resumed fit does again, and a line that was not written to its end.

        Args:
            step: The first step that it does again.
            validations: How many validations it does not repeat, if that is known: one within an accumulation of
                gradients has the number of a step that comes after it.
        """
        if not self.file.is_file():
            return
        kept, left = [], dict.fromkeys(VALIDATED, validations)
        for row in logged_rows(self.file):
            of = next((prefix for prefix in VALIDATED if any(key.startswith(prefix) for key in row)), None)
            counted = left.get(of) if of is not None else None
            if row["step"] < step if counted is None else counted > 0:
                kept.append(row)
            if of is not None and counted is not None:
                left[of] = counted - 1
        with published(self.file) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Leave the configuration to ``config.yaml``."""
