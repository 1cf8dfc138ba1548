"""Hashes of a model's tensors: what proves that nothing but the heads has changed."""

import hashlib
import os
import re
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ModelError

MOST_THREADS = 8
"""Tensors hashed at once, where there are so many processors."""
PART = 2**24
"""Bytes hashed at a time."""


def tensor_hashes(model: nn.Module, without: Set[int] = frozenset()) -> dict[str, str]:
    """Return sha256 of every parameter and buffer by name, under the names they have in the stock model."""
    tensors = {
        # What a head or an adapter has wrapped are the same tensors under the same name.
        re.sub(r"(\.stock|\.base_layer)+\.", ".", name): value
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if id(value) not in without
    }
    return hashes_of(tensors)


def hashes_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return sha256 of each tensor by name."""
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        return dict(zip(tensors, pool.map(_sha256, tensors.values()), strict=True))


def _sha256(value: Tensor) -> str:
    digest = hashlib.sha256()
    for part in value.detach().reshape(-1).view(torch.uint8).split(PART):  # from a GPU little at a time
        digest.update(part.cpu().numpy().data)
    return digest.hexdigest()


def fingerprint(hashes: Mapping[str, str]) -> str:
    """Return one hash over the hashes of tensors: the first 16 hex digits of sha256 over the sorted lines."""
    lines = sorted(f"{name} {value}" for name, value in hashes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def refuse_to_save(*args: Any, **kwargs: Any) -> None:
    """Stand in for a model's ``save_pretrained`` while heads are on it: the names of its tensors are not stock ones."""
    raise ModelError(
        "expected a stock model to save but this one has router heads (save_pretrained). "
        "Hint: detach() first; the heads are in the run's checkpoint."
    )
