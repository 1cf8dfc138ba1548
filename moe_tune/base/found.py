"""Finding a run, or a checkpoint of it, by what a person types: a path, or the run's bare name."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_tune.base.checkpoint_folder import MANIFEST, complete_folder
from moe_tune.base.errors import DataError, ModelError, did_you_mean

ROOT = Path("runs")
"""Where runs are looked for by name."""
BEST = "best.ckpt"
CHECKPOINTS = (BEST, "last.ckpt")


def found_run(name: str | Path, root: Path = ROOT) -> Path:
    """Return the folder of a run or a checkpoint.

    Args:
        name: A path, or the bare name of a run below ``root``.
        root: Where runs are looked for by name.

    Raises:
        DataError: There is none of that name.
    """
    for folder in (Path(name), root / name):
        if folder.is_dir():
            return folder
    names = [one.name for one in sorted(root.iterdir()) if (one / MANIFEST).is_file()] if root.is_dir() else []
    hint = did_you_mean(Path(name).name, names) if names else "`python -m moe_tune fit` prints where it wrote its run."
    places = " nor ".join(dict.fromkeys(str(folder) for folder in (Path(name), root / name)))
    raise DataError(
        f"expected a run directory or a checkpoint but got {str(name)!r}, and there is neither {places}. "
        f"Hint: {hint} --runs_root FOLDER looks in another folder."
    )


def found_checkpoint(name: str | Path, root: Path = ROOT) -> Path:
    """Return the checkpoint of a run that is to be used, its best where there is one, or the one that was named.

    Raises:
        DataError: There is no such run.
        ModelError: It has no checkpoint, or its files are not what its manifest says.
    """
    folder = found_run(name, root)
    kept = [folder / "checkpoints" / one for one in CHECKPOINTS]
    found = next((one for one in kept if one.is_dir()), folder)
    if found == folder and (status := _status(folder)):
        raise ModelError(_without_checkpoint(folder, *status))
    if found == kept[1] and tested_checkpoint(_manifest(folder)) == BEST:
        raise ModelError(
            f"expected {kept[0]}, which the run's numbers are of, but it is not there. "
            f"Hint: {kept[1]}, named so, is the last; fit with --fresh true makes both anew."
        )
    return complete_folder(found)


def tested_checkpoint(manifest: Mapping[str, Any]) -> str | None:
    """Return the file name of the checkpoint that a run's numbers are of; ``None`` where its fit has not ended."""
    tested = manifest.get("tested_checkpoint")
    return f"{Path(str(tested)).name.removesuffix('.ckpt')}.ckpt" if tested else None


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _status(folder: Path) -> tuple[str, str] | None:
    """Return the status of a run and the verb it is of; ``None`` of another folder, such as a checkpoint."""
    manifest = _manifest(folder)
    return (str(manifest["status"]), str(manifest.get("verb", "fit"))) if "status" in manifest else None


def _without_checkpoint(folder: Path, status: str, verb: str) -> str:
    if verb != "fit":
        return (
            f"expected a run with a checkpoint but {folder} is what `{verb}` wrote (status {status}). "
            "Hint: name the run of the fit."
        )
    command = f"python -m moe_tune fit --config {shlex.quote(str(folder / 'config.yaml'))}"
    return (
        f"expected a run with a checkpoint but its fit did not finish (status {status}, {folder}). "
        f"Hint: the same command again goes on, or begins: {command}; `python -m moe_tune list runs` tells of all."
    )
