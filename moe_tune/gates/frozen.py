"""Hashes of a model's tensors: what proves that nothing but the heads has changed."""

import hashlib
import re
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import nn

from moe_tune.base.errors import ModelError


def tensor_hashes(model: nn.Module, without: Set[int] = frozenset()) -> dict[str, str]:
    """Return sha256 of every parameter and buffer by name, under the names they have in the stock model."""
    return {
        # What a head or an adapter has wrapped are the same tensors under the same name.
        re.sub(r"(\.stock|\.base_layer)+\.", ".", name): hashlib.sha256(
            value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data
        ).hexdigest()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if id(value) not in without
    }


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
