"""The state of bound heads, by the names that checkpoints use."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moe_tune.base.errors import ModelError
from moe_tune.heads.base import RouterHead


def head_state(heads: Mapping[int, RouterHead]) -> dict[str, Tensor]:
    """Return the parameters and buffers of bound heads by checkpoint name, ``layers.<index>.<name>``."""
    return {
        f"layers.{layer}.{name}": value for layer, head in heads.items() for name, value in head.state_dict().items()
    }


def copy_state(mine: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into those of the same name; names, shapes and kinds of numbers must be exactly the same.

    Raises:
        ModelError: A name is missing or unknown, or a shape or dtype differs.
    """
    missing, unknown = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
    if missing or unknown:
        raise ModelError(
            f"expected the router tensors of the configured heads but got others ({where}): missing {missing[:6]}, "
            f"unknown {unknown[:6]}. Hint: use the head and layers the checkpoint was made with (its config.yaml)."
        )
    for name, value in state.items():
        if mine[name].shape != value.shape:
            raise ModelError(
                f"expected shape {tuple(mine[name].shape)} but got {tuple(value.shape)} for {name} ({where}). "
                "Hint: the checkpoint belongs to another base model."
            )
        if mine[name].dtype != value.dtype:
            raise ModelError(
                f"expected {mine[name].dtype} but got {value.dtype} for {name} ({where}). "
                "Hint: the checkpoint was made by something else."
            )
    with torch.no_grad():
        for name, value in state.items():
            mine[name].copy_(value)
