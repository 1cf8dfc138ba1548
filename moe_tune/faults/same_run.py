"""Whether two run directories hold the same results, bit for bit."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from moe_tune.base.checkpoint_folder import read_checkpoint
from moe_tune.runs.metrics_file import logged_rows

CHECKPOINTS = ("last.ckpt", "best.ckpt")


def only_run(root: Path) -> Path:
    """Return the one run of a folder."""
    (run,) = (path for path in root.iterdir() if (path / "manifest.json").is_file())
    return run


def unlike(mine: Path, other: Path) -> list[str]:
    """Return in which files two runs differ: checkpoints, tables and history; times apart."""
    found = []
    for name in CHECKPOINTS:
        folders = [run / "checkpoints" / name for run in (mine, other)]
        if any(folder.is_dir() for folder in folders) and not _same(*(_kept(read_checkpoint(one)) for one in folders)):
            found.append(name)
    tables = sorted({file.relative_to(run) for run in (mine, other) for file in run.rglob("*.parquet")})
    for table in tables:
        files = [run / table for run in (mine, other)]
        if not all(file.is_file() for file in files) or not pd.read_parquet(files[0]).equals(pd.read_parquet(files[1])):
            found.append(str(table))
    histories = [[_timeless(row) for row in logged_rows(run / "metrics.jsonl")] for run in (mine, other)]
    if histories[0] != histories[1]:
        found.append("metrics.jsonl")
    return found


def compared(mine: Path, other: Path) -> str:
    """Return how two runs compare, in words: ``bit for bit``, or which files are others."""
    off = unlike(mine, other)
    return f"other {', '.join(off)}" if off else "bit for bit"


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "time"}


def _kept(checkpoint: dict[str, Any]) -> dict[str, Any]:
    kept = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")}
    random = [state.get("random") for name, state in checkpoint["callbacks"].items() if "StepCheckpoints" in name]
    return kept | {"random": random, "losses": checkpoint.get("losses")}


def _same(mine: Any, other: Any) -> bool:
    if isinstance(mine, torch.Tensor):
        return isinstance(other, torch.Tensor) and mine.dtype == other.dtype and torch.equal(mine, other)
    if isinstance(mine, dict):
        return isinstance(other, dict) and mine.keys() == other.keys() and all(_same(mine[k], other[k]) for k in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(other) and all(_same(a, b) for a, b in zip(mine, other, strict=True))
    return bool(mine == other)
