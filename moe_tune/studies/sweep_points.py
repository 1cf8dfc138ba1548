"""The points of a sweep that runs here: a state file that is never half-written, and a folder for each point's run."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moe_tune.base.published import write_json
from moe_tune.runs.best_epoch import validation_summary
from moe_tune.runs.metrics_file import logged_rows

STATE = "state.json"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(slots=True)
class SweepPoint:
    """One setting that a sweep tries.

    Attributes:
        index: Its place in the order of proposals, from 0.
        values: Parameter by dotted key.
        status: ``running`` from its proposal on, also while no process works on it.
        note: Why it failed.
    """

    index: int
    values: dict[str, Any]
    status: Status = "running"
    note: str = ""

    def root(self, folder: Path) -> Path:
        """Return the folder that holds the point's run directory, whose name is known only once the run begins."""
        return folder / "points" / f"{self.index:03d}"

    def run(self, folder: Path) -> Path | None:
        """Return the point's run directory, if it has begun; of several, the one written to last."""
        manifests = [file for file in self.root(folder).glob("*/manifest.json") if ".old-" not in file.parent.name]
        newest = max(manifests, key=lambda file: file.stat().st_mtime_ns, default=None)
        return newest.parent if newest else None

    def ended(self, folder: Path) -> Status | None:
        """Return how the point's run ended, by its manifest; ``None`` if it did not."""
        run = self.run(folder)
        if run is None:
            return None
        status = json.loads((run / "manifest.json").read_text(encoding="utf-8")).get("status")
        ends: dict[str, Status] = {"finished": "finished", "stopped_early": "stopped"}
        return ends.get(status)

    def history(self, folder: Path, metric: str) -> list[float]:
        """Return the metric's logged values in order; values that are not finite are left out."""
        run = self.run(folder)
        values = [row.get(metric) for row in logged_rows(run / "metrics.jsonl")] if run else []
        return [float(value) for value in values if value is not None and math.isfinite(value)]

    def value(self, folder: Path, metric: str) -> float | None:
        """Return what the point is judged by, as in the W&B summary: validation at ``best.ckpt``, else the last value.

        ``None`` if it is not finite, or there is none.
        """
        run = self.run(folder)
        summary = validation_summary(run) if run else {}
        if metric not in summary:
            return next(reversed(self.history(folder, metric)), None)
        return summary[metric] if math.isfinite(summary[metric]) else None


def load_points(folder: Path) -> list[SweepPoint]:
    """Return the points of a sweep's folder, none if it is new."""
    file = folder / STATE
    return [SweepPoint(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []


def save_points(folder: Path, points: list[SweepPoint]) -> None:
    """Write the points, atomically."""
    write_json(folder / STATE, [asdict(point) for point in points])


def opened_again(folder: Path, *, failed: bool) -> dict[int, str]:
    """Let points run again whose run directory is gone, and those that failed if asked to; return why, by index."""
    points, reasons = load_points(folder), {}
    for point in points:
        if point.status in ("finished", "stopped") and point.run(folder) is None:
            reasons[point.index] = "its folder is gone"
        elif point.status == "failed" and failed:
            reasons[point.index] = f"it had failed: {point.note}"
        else:
            continue
        point.status, point.note = "running", ""
    if reasons:
        save_points(folder, points)
    return reasons
