"""Hashes of a model's tensors: what proves that nothing but the heads has changed."""

import hashlib
import re
from collections.abc import Mapping, Set

import torch
from torch import nn


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
