"""The tuned head as a W&B artifact: a checkpoint, which can be loaded and resumed, never the base model."""

import json
import re
from pathlib import Path
from typing import Any

from moe_tune.base.checkpoint_folder import MANIFEST, ROUTER, checked_folder
from moe_tune.base.redact import redacted
from moe_tune.runs.best_epoch import best_checkpoint, validation_at
from moe_tune.runs.checkpoint import seen_by
from moe_tune.runs.directory import RunDirectory

TYPE = "router-head"
LONGEST_NAME = 128
"""Characters; W&B refuses longer ones."""


def send_head(run: Any, folder: Path) -> None:
    """Log the head of a finished fit: a version for the best checkpoint and one for the last, or one that is both.

    What it was trained from, base model and data, is in its metadata. W&B's own lineage, ``use_artifact``, needs a
    server that answers and artifacts of both, so that an offline run could not have it.
    """
    import wandb

    directory = RunDirectory(folder)
    if not directory.is_finished:
        return
    for checkpoint, aliases in kept_checkpoints(directory).items():
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name)[:LONGEST_NAME]
        artifact = wandb.Artifact(name, type=TYPE, metadata=describe(directory, checkpoint))
        # All of it: only then is a download a checkpoint, as its manifest says. ``add_dir`` would print lines.
        for file in sorted(one for one in checkpoint.rglob("*") if one.is_file()):
            artifact.add_file(str(file), name=file.relative_to(checkpoint).as_posix())
        run.log_artifact(artifact, aliases=aliases)


def kept_checkpoints(directory: RunDirectory) -> dict[Path, list[str]]:
    """Return the checkpoints of a finished fit with their aliases: ``best``, ``last``, or both where they are one.

    Two checkpoints of the same tensors count as one, the last; so does a fit that trained nothing.
    """
    last = directory.last_checkpoint
    best = best_checkpoint(directory.path) or last
    if best is None:
        return {}
    if last is None or _router_hash(best) == _router_hash(last):
        return {last or best: ["best", "last"]}
    return {best: ["best"], last: ["last"]}


def describe(directory: RunDirectory, checkpoint: Path) -> dict[str, Any]:
    """Return an artifact's metadata: the head, what it was trained from, and its accuracy on the validation split."""
    manifest = directory.manifest
    data = manifest.get("data", {})
    seen = seen_by(checked_folder(checkpoint))
    return redacted(
        {
            **{key: manifest[key] for key in ("head", "scope", "layers", "losses", "seed", "trainable_parameters")},
            "run": directory.path.resolve().name,
            "checkpoint": checkpoint.name,
            "step": None if seen is None else seen[0],
            "validation_accuracy": validation_at(directory.path, seen).get("validation/accuracy"),
            "base_model": manifest["base"],
            "data": {
                "source": data.get("source"),
                "splits": {name: split["sha256"] for name, split in data.get("splits", {}).items()},
            },
        }
    )


def _router_hash(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["sha256"][ROUTER])
