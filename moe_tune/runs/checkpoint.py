"""Checkpoints: a folder of router tensors, trainer state and a manifest of hashes, published by rename."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file

from moe_tune.base.errors import ModelError
from moe_tune.base.published import published, write_json
from moe_tune.gates.gated_model import BESIDE
from moe_tune.runs.plain_state import load_state, save_state

ADAPTER = "adapter"
ROUTER, CONFIG, MANIFEST = "router.safetensors", "config.yaml", "manifest.json"
STATE, STATE_TENSORS = "state.json", "state.safetensors"
FORMAT = 2
COUNTED = "validations"
"""Under what a callback keeps in the state how many validations there were."""
PICKLED = "trainer.pt"
"""What the first format kept its state in; it is read as plain types only."""
FILES = {1: (ROUTER, PICKLED, CONFIG), FORMAT: (ROUTER, STATE, STATE_TENSORS, CONFIG)}
"""What a checkpoint of each format consists of, an adapter apart."""


class RouterCheckpointIO(CheckpointIO):
    """Writes and reads checkpoints as folders: the heads' tensors only, never the base model, never a pickle.

    ``router.safetensors`` holds the heads, ``state.json`` and ``state.safetensors`` the optimiser and loop state as
    plain values and tensors, ``config.yaml`` the resolved configuration, ``manifest.json`` the sha256 of every file. A
    folder without a manifest is not a checkpoint. A LoRA's tensors are in ``router.safetensors`` and once more, for
    other programs, in the folder ``adapter`` as PEFT writes them. The first format, with a pickle of plain types in
    place of the two files of state, is still read.

    Args:
        config: Gives the resolved configuration as YAML text, stored in every checkpoint.
    """

    def __init__(self, config: Callable[[], str] = str) -> None:
        self.config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            ModelError: The state of a callback is neither plain values nor tensors.
        """
        state = dict(checkpoint)
        router = {name: value.detach().cpu().contiguous() for name, value in state.pop("state_dict").items()}
        with published(Path(path)) as draft:
            draft.mkdir()
            save_file(router, draft / ROUTER)
            if "adapter" in state:
                own = {name.removeprefix(BESIDE): value for name, value in router.items() if name.startswith(BESIDE)}
                (draft / ADAPTER).mkdir()
                save_file(own, draft / ADAPTER / "adapter_model.safetensors", {"format": "pt"})
                description = json.dumps(state.pop("adapter"), indent=2)
                (draft / ADAPTER / "adapter_config.json").write_text(description, encoding="utf-8")
            save_state(state, draft / STATE, draft / STATE_TENSORS)
            (draft / CONFIG).write_text(self.config(), encoding="utf-8")
            files = sorted(file for file in draft.rglob("*") if file.is_file())
            hashes = {file.relative_to(draft).as_posix(): _sha256(file) for file in files}
            write_json(draft / MANIFEST, {"format": FORMAT, "sha256": hashes})

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint of any format, after checking every file against the manifest.

        Raises:
            ModelError: It is not a checkpoint of this program, or a file was changed.
        """
        folder = checked_folder(path)
        plain = STATE in _hashes(folder / MANIFEST)
        state: dict[str, Any] = load_state(folder / STATE, folder / STATE_TENSORS) if plain else _unpickled(folder)
        state["state_dict"] = load_file(folder / ROUTER)
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)


def seen_by(folder: Path) -> tuple[int, int | None] | None:
    """Return how many optimiser steps and validations a checkpoint has seen; ``None`` while another takes its place.

    Checkpoints of earlier versions do not know their validations.
    """
    try:
        plain = (folder / STATE).is_file()
        state = json.loads((folder / STATE).read_text(encoding="utf-8")) if plain else _unpickled(folder)
    except FileNotFoundError:
        return None
    found = (kept[COUNTED] for kept in state.get("callbacks", {}).values() if COUNTED in kept)
    return int(state["global_step"]), next(found, None)


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
        came = _sha256(folder / name) if (folder / name).is_file() else "no file"
        if came != wanted:
            raise ModelError(
                f"expected {name} with sha256 {wanted[:12]} but got {came[:12]} ({folder}): the checkpoint is corrupt. "
                "Hint: use another checkpoint of the run."
            )
    return folder


def _hashes(manifest: Path) -> dict[str, str]:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        hashes, needed = dict(content["sha256"]), FILES[content["format"]]
        if missing := {*needed} - hashes.keys():
            raise KeyError(f"no {', '.join(sorted(missing))}")
    except (ValueError, TypeError, KeyError) as fault:
        raise ModelError(
            f"expected a manifest of format 1 or {FORMAT} with a sha256 for every file but got: {fault} ({manifest}). "
            "Hint: use another checkpoint of the run, or the version of moe_tune that wrote it."
        ) from fault
    return hashes


def _unpickled(folder: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(folder / PICKLED, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as fault:
        raise ModelError(
            f"expected plain tensors and values but got: refused untrusted object ({folder / PICKLED}). "
            "Hint: load only checkpoints this program wrote."
        ) from fault


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
