"""What a comparison says of test splits that are no longer out of distribution for a run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moe_tune.compare.runs import Run
from moe_tune.data.overlap import recorded


def overlap_notes(runs: Iterable[Run], splits: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence for each split that shares its collections with what a run was trained on.

    Args:
        runs: All runs of the comparison.
        splits: The splits that are compared.
    """
    found: dict[tuple[str, str], list[str]] = {}
    compared = set(splits)
    for run in runs:
        for split, trained in recorded(_data(run)).items():
            if split in compared:
                found.setdefault((split, trained), []).append(run.label)
    return tuple(
        f"{split} is not out of distribution: {', '.join(sorted(set(names)))} trained on {trained}, "
        "which has questions of the same collections."
        for (split, trained), names in sorted(found.items())
    )


def _data(run: Run) -> dict[str, Any]:
    own: dict[str, Any] = run.manifest.get("data", {})
    checkpoint = run.config.get("ckpt_path")
    if "train" in own.get("splits", {}) or not checkpoint:
        return own
    # An evaluation of another run's checkpoint: what trained is written there.
    splits = _fitted(Path(str(checkpoint)).parent.parent / "manifest.json").get("data", {}).get("splits", {})
    return {**own, "splits": {**own.get("splits", {}), "train": splits.get("train", {})}}


def _fitted(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
