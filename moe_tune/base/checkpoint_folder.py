"""A checkpoint folder: which files it consists of, whether they are what its manifest says, and what it holds."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from moe_tune.base.errors import ModelError
from moe_tune.base.plain_state import load_state
from moe_tune.base.strict_yaml import load_yaml

ROUTER, CONFIG, MANIFEST = "router.safetensors", "config.yaml", "manifest.json"
STATE, STATE_TENSORS = "state.json", "state.safetensors"
FORMAT = 2
PICKLED = "trainer.pt"
"""What the first format kept its state in; it is read as plain types only."""
FILES = {1: (ROUTER, PICKLED, CONFIG), FORMAT: (ROUTER, STATE, STATE_TENSORS, CONFIG)}
"""What a checkpoint of each format consists of, an adapter apart."""
NEEDED = {"epoch": int, "global_step": int, "pytorch-lightning_version": str, "base": dict}
"""What the state of a fit's checkpoint has whatever was trained, and of which type."""
OTHER = "Hint: use another checkpoint of the run, such as python -m moe_tune test runs/NAME/checkpoints/last.ckpt."


def read_checkpoint(path: Any) -> dict[str, Any]:
    """Return what a checkpoint of any format holds, after checking every file against the manifest.

    Raises:
        ModelError: It is not a checkpoint of this program, or a file was changed.
    """
    folder = checked_folder(path)
    plain = STATE in _hashes(folder / MANIFEST)
    try:
        state: dict[str, Any] = load_state(folder / STATE, folder / STATE_TENSORS) if plain else unpickled(folder)
        state["state_dict"] = load_file(folder / ROUTER)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise ModelError(
            f"expected tensors and plain values but got {type(fault).__name__}: {' '.join(str(fault).split())[:200]} "
            f"({folder}): the checkpoint holds something else, whatever its hashes say. {OTHER}"
        ) from fault
    _refuse_not_finite(state["state_dict"], folder / ROUTER)
    for optimizer in state.get("optimizer_states", []):
        kept = {f"{place}.{key}": one for place, row in optimizer.get("state", {}).items() for key, one in row.items()}
        _refuse_not_finite(kept, folder / STATE_TENSORS)
    return state


def _refuse_not_finite(tensors: Mapping[str, Any], file: Path) -> None:
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
            raise ModelError(f"expected finite tensors but {name} is not ({file}). {OTHER}")


def checked_folder(path: Any) -> Path:
    """Return a checkpoint folder whose files are what its manifest says.

    Raises:
        ModelError: It is not a checkpoint of this program, or a file was changed.
    """
    folder = Path(str(path))
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ModelError(
            f"expected a checkpoint folder with a {MANIFEST} but got {str(path)!r} (ckpt_path). "
            "Hint: give runs/<name>/checkpoints/last.ckpt."
        )
    for name, wanted in _hashes(manifest).items():
        came = sha256_of(folder / name) if (folder / name).is_file() else "no file"
        if came != wanted:
            raise ModelError(
                f"expected {name} with sha256 {wanted[:12]} but got {came[:12]} ({folder}): the checkpoint is corrupt. "
                f"{OTHER}"
            )
    return folder


def complete_folder(path: Any) -> Path:
    """Return a checkpoint folder that is what its manifest says, and has what a verb needs of it.

    Raises:
        ModelError: It is not a checkpoint of this program, a file was changed, or one holds something else.
    """
    folder = checked_folder(path)
    config = load_yaml(folder / CONFIG)
    sections = [config, *(config.get(key, {}) for key in ("model", "data"))] if isinstance(config, dict) else [config]
    if odd := [one for one in sections if not isinstance(one, dict)]:
        raise ModelError(f"expected a configuration with its sections but got {odd[0]!r} ({folder / CONFIG}). {OTHER}")
    if (file := folder / STATE).is_file():
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
            lacks = [key for key, kind in NEEDED.items() if not isinstance(state.get(key), kind)]
        except (ValueError, AttributeError, RecursionError) as fault:
            lacks = [f"readable state: {fault}"]
        if lacks:
            raise ModelError(f"expected a trainer's state but it has no {lacks[0]} ({file}). {OTHER}")
    return folder


def _hashes(manifest: Path) -> dict[str, str]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        hashes, needed = dict(content["sha256"]), FILES[content["format"]]
        if missing := {*needed} - hashes.keys():
            raise KeyError(f"no {', '.join(sorted(missing))}")
        if odd := [name for name, one in hashes.items() if not isinstance(one, str)]:
            raise TypeError(f"no text for {odd[0]}")
    except (ValueError, TypeError, KeyError, RecursionError) as fault:
        raise ModelError(
            f"expected a manifest of format 1 or {FORMAT} with a sha256 for every file but got: {fault} ({manifest}). "
            "Hint: use another checkpoint of the run, or the version of moe_tune that wrote it."
        ) from fault
    return hashes


def unpickled(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint of the first format, of plain types only."""
    try:
        return dict(torch.load(folder / PICKLED, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as fault:
        raise ModelError(
            f"expected plain tensors and values but got: refused untrusted object ({folder / PICKLED}). "
            "Hint: load only checkpoints this program wrote."
        ) from fault


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
