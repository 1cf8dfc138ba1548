"""Checkpoints: a folder of router tensors, trainer state and a manifest of hashes, published by rename."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from safetensors.torch import save_file

from moe_tune.base.checkpoint_folder import (
    CONFIG,
    FORMAT,
    MANIFEST,
    ROUTER,
    STATE,
    STATE_TENSORS,
    checked_folder,
    read_checkpoint,
    sha256_of,
    unpickled,
)
from moe_tune.base.errors import ModelError
from moe_tune.base.plain_state import save_state
from moe_tune.base.published import published, write_json
from moe_tune.gates.gated_model import BESIDE

LAST, BEFORE = "last.ckpt", "last-1.ckpt"
"""The newest checkpoint of a fit, and the one before it, which is gone on from should the newest be damaged."""
ADAPTER = "adapter"
COUNTED = "validations"
"""Under what a callback keeps in the state how many validations there were."""


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
        """Write a checkpoint, and read it again before it takes its place; the one before ``last.ckpt`` is kept.

        Raises:
            ModelError: The state of a callback is neither plain values nor tensors, or the disk does not give back what
                was written to it.
        """
        if Path(path).name == LAST:
            _keep_before(Path(path))
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
            hashes = {file.relative_to(draft).as_posix(): sha256_of(file) for file in files}
            write_json(draft / MANIFEST, {"format": FORMAT, "sha256": hashes})
            checked_folder(draft)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint of any format, after checking every file against the manifest.

        Raises:
            ModelError: It is not a checkpoint of this program, or a file was changed.
        """
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint folder."""
        shutil.rmtree(path, ignore_errors=True)


def intact(candidates: Iterable[Path]) -> Path | None:
    """Return the first checkpoint that can be read, and tell of those before it that cannot; ``None`` without any.

    Raises:
        ModelError: There are some, and none can be read.
    """
    damaged: ModelError | None = None
    for folder in candidates:
        try:
            read_checkpoint(folder)
        except ModelError as fault:
            rank_zero_info(f"checkpoint {folder} corrupt, not used: {fault}")
            damaged = fault
            continue
        if damaged is not None:
            rank_zero_info(f"using {folder}")
        return folder
    if damaged is not None:
        raise ModelError(f"{damaged} None before it is intact either; --fresh true starts anew.")
    return None


def _keep_before(last: Path) -> None:
    """Keep the newest checkpoint under a second name, if it is intact; its files are linked where that is possible."""
    try:
        checked_folder(last)
    except ModelError:  # there is none, or it is damaged: the one before it stays
        return
    with published(last.with_name(BEFORE)) as draft:
        shutil.copytree(last, draft, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a filesystem without links
        shutil.copy2(source, target)


def seen_by(folder: Path) -> tuple[int, int | None] | None:
    """Return how many optimiser steps and validations a checkpoint has seen; ``None`` while another takes its place.

    Checkpoints of earlier versions do not know their validations.
    """
    try:
        plain = (folder / STATE).is_file()
        state = json.loads((folder / STATE).read_text(encoding="utf-8")) if plain else unpickled(folder)
    except FileNotFoundError:
        return None
    found = (kept[COUNTED] for kept in state.get("callbacks", {}).values() if COUNTED in kept)
    return int(state["global_step"]), next(found, None)
