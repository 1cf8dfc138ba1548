"""A model computed in the other dtype, with no second copy of it in memory."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def in_other_dtype(model: PreTrainedModel, keep: Iterable[Tensor] = ()) -> Iterator[None]:
    """Let a model compute in bfloat16 in place of float32, else in float32, for as long as the context lasts.

    Each layer is cast when it runs and given its very tensors back when it has: at most one layer more is in memory,
    and what bfloat16 cannot hold is not lost.
    """
    kept = {id(value) for value in keep}
    dtype = torch.bfloat16 if model.dtype == torch.float32 else torch.float32
    with ExitStack() as hooks:
        for unit in _units(model):
            hooks.callback(_cast_when_it_runs(unit, dtype, kept))
        yield


def _units(model: Any) -> Iterator[nn.Module]:
    """Yield the decoder layers and what has parameters beside them: embeddings, last norm, output."""
    layers = list(model.base_model.layers)
    within = {id(module) for layer in layers for module in layer.modules()}
    yield from layers
    for module in model.modules():
        if id(module) not in within and next(module.parameters(recurse=False), None) is not None:
            yield module


def _cast_when_it_runs(unit: nn.Module, dtype: torch.dtype, kept: set[int]) -> Any:
    stored: dict[nn.Parameter, Tensor] = {}

    def cast(module: nn.Module, args: Any) -> None:
        for value in module.parameters():
            if value.is_floating_point() and id(value) not in kept:
                stored[value] = value.data
                value.data = value.data.to(dtype)

    def restore(*ignored: Any) -> None:
        for value, data in stored.items():
            value.data = data
        stored.clear()

    handles = (unit.register_forward_pre_hook(cast), unit.register_forward_hook(restore, always_call=True))

    def remove() -> None:
        for handle in handles:
            handle.remove()
        restore()

    return remove
