"""A stock checkpoint with other router tensors: the base model's files, copied, and read back tensor by tensor."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from moe_tune.base.errors import ModelError
from moe_tune.base.hub_snapshot import SETTINGS
from moe_tune.export.card import same_bits
from moe_tune.gates.frozen import tensor_hashes
from moe_tune.models.base_model import BaseModel

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BESIDE = (*SETTINGS, "LICENSE*")
"""What is copied beside the weights: configuration, generation settings, tokenizer, licence."""


def write_stock(base: BaseModel, new: Mapping[str, Tensor], before: Mapping[str, Tensor], target: Path) -> int:
    """Write the files of a base model into an empty folder with some tensors replaced, and return how many there are.

    Each file of weights is the base's own but for the replaced tensors, so that their names and the layout of experts
    stay as published. Then every tensor is read back.

    Args:
        base: The base model.
        new: The tensors that replace others, by their name in the model.
        before: What they replace, by the same names.
        target: The folder.

    Raises:
        ModelError: The files hold a router in another form than the model, or what was read back differs.
    """
    source = base.folder()
    for pattern in BESIDE:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
    if base.tokenizer is not None:
        base.load_tokenizer().save_pretrained(str(target))
    places = _places(source, before)
    by_file: dict[str, dict[str, Tensor]] = {shard: {} for shard in _files(source)}
    for name, (shard, key) in places.items():
        by_file[shard][key] = new[name].cpu().contiguous()
    for shard, changed in by_file.items():
        if changed:
            _rewrite(source / shard, changed, target / shard)
        else:
            shutil.copyfile(source / shard, target / shard)
    if (target / INDEX).is_file():
        _count_anew(target / INDEX)
    return sum(_read_back(source / shard, changed, target / shard) for shard, changed in by_file.items())


def prove_loaded(base: BaseModel, before: Mapping[str, str], new: Mapping[str, Tensor], folder: Path) -> None:
    """Load a written checkpoint with plain transformers and refuse it if any other tensor differs from the base's.

    Args:
        base: The base model.
        before: sha256 of the base model's tensors by name.
        new: The tensors that were replaced, by name.
        folder: The written checkpoint.

    Raises:
        ModelError: A tensor differs that should not, or a replaced one is not what was written.
    """
    model, _ = at(base, folder).load()
    hashes = tensor_hashes(model)
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wrong = [name for name, value in hashes.items() if name not in new and before.get(name) != value]
    wrong += [name for name, value in new.items() if not torch.equal(kept[name].detach(), value.to(kept[name].device))]
    if wrong or hashes.keys() != before.keys():
        raise ModelError(
            f"expected a checkpoint that differs from the base model in its routers alone but {sorted(wrong)[:4]} "
            f"differ ({folder.name}). Hint: nothing was kept; this release of transformers loads it in another way."
        )


def at(base: BaseModel, folder: Path, **changes: Any) -> BaseModel:
    """Return a base model's settings for a checkpoint in another folder."""
    return replace(base, path=str(folder), revision=None, tokenizer=None, **changes)


def _files(folder: Path) -> list[str]:
    """Return the names of the files of weights that transformers reads."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted(set(index["weight_map"].values()))
    if not (folder / WHOLE).is_file():
        raise ModelError(f"expected {WHOLE} or {INDEX} but found neither ({folder.name}). Hint: check model.base.path.")
    return [WHOLE]


def _places(folder: Path, before: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Return in which file, and under which name, each tensor of the model is; found by its name, else its content."""
    found: dict[str, tuple[str, str]] = {}
    held: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in _files(folder):
        with safe_open(folder / file, framework="pt") as kept:
            held |= {key: (file, tuple(kept.get_slice(key).get_shape())) for key in kept.keys()}  # noqa: SIM118
    for name, wanted in before.items():
        shaped = [key for key, (_, shape) in held.items() if shape == tuple(wanted.shape)]
        same = [key for key in shaped if _holds(folder / held[key][0], key, wanted)]
        chosen = [name] if name in same else same
        if len(chosen) != 1:
            raise ModelError(
                f"expected {name} in the files of the base model but found {len(chosen)} tensors like it "
                f"({folder.name}): they hold the router in another form than the model. Hint: a router card works."
            )
        found[name] = held[chosen[0]][0], chosen[0]
    return found


def _holds(file: Path, key: str, wanted: Tensor) -> bool:
    with safe_open(file, framework="pt") as kept:
        return torch.equal(kept.get_tensor(key).to(wanted.dtype), wanted.cpu())


def _rewrite(source: Path, changed: Mapping[str, Tensor], target: Path) -> None:
    with safe_open(source, framework="pt") as kept:
        tensors = {key: changed[key] if key in changed else kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118
        save_file(tensors, target, kept.metadata())
    shutil.copymode(source, target)


def _count_anew(index: Path) -> None:
    """Correct the size that an index says, which changes where a router is written in another dtype."""
    content = json.loads(index.read_text(encoding="utf-8"))
    if "total_size" not in content.get("metadata", {}):
        return
    sizes = [
        one.numel() * one.element_size() for file in _files(index.parent) for _, one in _tensors(index.parent / file)
    ]
    content["metadata"]["total_size"] = sum(sizes)
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as kept:
        for key in kept.keys():  # noqa: SIM118
            yield key, kept.get_tensor(key)


def _read_back(source: Path, changed: Mapping[str, Tensor], target: Path) -> int:
    """Return how many tensors of a file are, bit for bit, what they are to be."""
    count = 0
    with safe_open(source, framework="pt") as theirs, safe_open(target, framework="pt") as mine:
        names = list(theirs.keys())
        wrong = sorted(set(names) ^ set(mine.keys()))
        for name in set(names) - set(wrong):
            wanted, came = changed[name] if name in changed else theirs.get_tensor(name), mine.get_tensor(name)
            count += 1
            if not same_bits(wanted, came):
                wrong.append(name)
    if wrong:
        raise ModelError(
            f"expected tensors as written but read back others: {wrong[:4]} ({target.name}). Hint: the disk."
        )
    return count
