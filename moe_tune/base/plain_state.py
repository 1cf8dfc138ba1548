"""Nested state of plain values and tensors as JSON and safetensors: exact, readable, and never code."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe_tune.base.errors import ModelError

TENSOR, TUPLE, PAIRS, FLOAT = "$tensor", "$tuple", "$pairs", "$float"
"""Keys of what JSON has no word for: a tensor's name, a tuple, a mapping whose keys are not all words, NaN and such."""


def save_state(state: Mapping[str, Any], values: Path, tensors: Path) -> None:
    """Write nested state to two files.

    Raises:
        ModelError: There is something else in the state.
    """
    found: dict[str, Tensor] = {}
    written = _plain(state, "state", found)
    values.write_text(json.dumps(written, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(found, tensors)


def load_state(values: Path, tensors: Path) -> Any:
    """Return what ``save_state`` wrote; mappings are dictionaries, tensors are on the CPU."""
    return _restored(json.loads(values.read_text(encoding="utf-8")), load_file(tensors))


def _plain(value: Any, where: str, found: dict[str, Tensor]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Tensor):
        while where in found:  # keys may hold dots
            where += "'"
        # Tensors may share memory, which safetensors refuses.
        found[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: where}
    if isinstance(value, list):
        return [_plain(one, f"{where}.{place}", found) for place, one in enumerate(value)]
    if isinstance(value, tuple):
        return {TUPLE: _plain([*value], where, found)}
    if isinstance(value, Mapping):
        parts = [(key, _plain(one, f"{where}.{key}", found)) for key, one in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(parts)
        return {PAIRS: [[_plain(key, where, found), part] for key, part in parts]}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise ModelError(
        f"expected plain values and tensors in a checkpoint but got {kind} ({where}). "
        "Hint: state_dict of the callback or optimiser that keeps it returns numbers, words or tensors."
    )


def _restored(value: Any, found: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(one, found) for one in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return found[value[TENSOR]]
    if FLOAT in value:
        return float(value[FLOAT])
    if TUPLE in value:
        return tuple(_restored(value[TUPLE], found))
    if PAIRS in value:
        return {_restored(key, found): _restored(one, found) for key, one in value[PAIRS]}
    return {key: _restored(one, found) for key, one in value.items()}
