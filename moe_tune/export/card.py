"""A router card: the heads of a run in a folder of plain files that says what it belongs to; changed, it is refused."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_tune.base.checkpoint_folder import sha256_of
from moe_tune.base.errors import ModelError
from moe_tune.base.published import published, write_json

CARD, TENSORS, README, SEEN = "card.json", "router.safetensors", "README.md", "calibrated_on.txt"
FORMAT = 1
HELD = {"name", "head", "layers", "scope", "routing_dtype", "peft", "base", "metrics"}
"""What a card says, whatever its run was."""


@dataclass(frozen=True, slots=True, eq=False)
class RouterCard:
    """What a router card holds.

    Args:
        settings: ``name``, ``head`` (class path and arguments), ``layers``, ``scope``, ``routing_dtype``, ``peft``,
            ``base`` (what identifies the model, its dtype and the fingerprint of its tensors), ``versions``.
        metrics: Accuracy of each split as the run recorded it: n, difference from the pretrained router, interval.
        tensors: The heads' tensors by checkpoint name, and an adapter's.
        calibrated_on: Content hashes of the questions the heads were calibrated on; they may not be scored on them.
    """

    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    calibrated_on: list[str] = field(default_factory=list)

    @property
    def described(self) -> dict[str, Any]:
        """Everything but the tensors and the questions, as ``card.json`` has it."""
        return {"format": FORMAT, **self.settings, "metrics": self.metrics}


def write_card(card: RouterCard, readme: str, target: Path) -> Path:
    """Write a card's folder, all of it or nothing, and read it back.

    Args:
        card: The card.
        readme: Its model card.
        target: The folder; an earlier card there is replaced.

    Raises:
        ModelError: What was read back differs.
    """
    with published(target) as draft:
        draft.mkdir()
        tensors = {name: value.detach().cpu().contiguous() for name, value in card.tensors.items()}
        save_file(tensors, draft / TENSORS, {"format": "pt"})
        (draft / README).write_text(readme, encoding="utf-8")
        if card.calibrated_on:
            (draft / SEEN).write_text("".join(f"{one}\n" for one in sorted(card.calibrated_on)), encoding="utf-8")
        hashes = {file.name: sha256_of(file) for file in sorted(draft.iterdir())}
        content = {**card.described, "sha256": hashes}
        write_json(draft / CARD, {**content, "whole": _hash_of(content)})
        kept = read_card(draft).tensors
        if kept.keys() != tensors.keys() or any(not same_bits(kept[name], one) for name, one in tensors.items()):
            raise ModelError(f"expected the tensors as written but read back others ({target}). Hint: check the disk.")
    return target


def read_card(folder: Path) -> RouterCard:
    """Return what a card's folder holds, after checking every file against the card, and the card against itself.

    The hash shows damage and edits; it is no signature: who wants to can compute it anew.

    Raises:
        ModelError: It is no card, or a file is missing or was changed.
    """
    try:
        content = json.loads((folder / CARD).read_text(encoding="utf-8"))
        whole, hashes = content.pop("whole"), dict(content["sha256"])
        if content["format"] != FORMAT or not {TENSORS, README} <= hashes.keys():
            raise KeyError(f"format {content['format']!r} with {', '.join(sorted(hashes))}")
        if lacking := HELD - content.keys():
            raise KeyError(f"nothing of {', '.join(sorted(lacking))}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise ModelError(
            f"expected a router card, a folder with a {CARD} of format {FORMAT}, but got: {fault} ({folder}). "
            "Hint: python -m moe_tune export RUN --output FOLDER writes one."
        ) from fault
    changed = [] if whole == _hash_of(content) else [CARD]
    changed += [name for name, wanted in hashes.items() if not _is(folder, name, wanted)]
    if changed:
        raise ModelError(
            f"expected a router card as it was written but {', '.join(changed)} was changed ({folder}). "
            "Hint: export it again; notes of your own belong beside the folder."
        )
    try:
        tensors = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as fault:
        raise ModelError(f"expected tensors but got: {fault} ({folder / TENSORS}). Hint: export it again.") from fault
    seen = (folder / SEEN).read_text(encoding="utf-8").split() if SEEN in hashes else []
    settings = {key: value for key, value in content.items() if key not in ("format", "metrics", "sha256")}
    return RouterCard(settings, content["metrics"], tensors, seen)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit; NaN, of a run that diverged, agrees with itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (side.contiguous().reshape(-1).view(torch.uint8) for side in (one, other))
    return torch.equal(first, second)


def is_card(folder: Path) -> bool:
    """Whether a folder is meant to be a router card."""
    return (folder / CARD).is_file()


def _is(folder: Path, name: str, wanted: str) -> bool:
    try:
        inside = Path(name).name == name and (folder / name).is_file()
        return inside and sha256_of(folder / name) == wanted
    except (OSError, ValueError):  # a name that no file can have
        return False


def _hash_of(content: dict[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
