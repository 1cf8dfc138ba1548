"""Numbers that are not finite stop a fit before its update, with the step, the term, the layer and the questions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moe_tune.base.errors import NumericsError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.tuner.objective import Parts

TOLD = 8
"""Questions named in a message."""


def not_finite(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """Return the names of tensors that hold NaN or an infinity.

    Example:
        >>> not_finite({"a": torch.ones(2), "b": torch.tensor([0.0, torch.inf]), "c": None})
        ['b']
    """
    there = {name: value for name, value in tensors.items() if value is not None}
    if not there or bool(torch.stack([value.isfinite().all() for value in there.values()]).all()):
        return []
    return [name for name, value in there.items() if not value.isfinite().all()]


@contextmanager
def told_where(gated: GatedModel, asked: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Add the first layer whose router logits are not finite, and the questions of the batch, to such a fault.

    Args:
        gated: The model, with the trace of the pass.
        asked: Gives what the questions of the batch are called.
    """
    try:
        yield
    except NumericsError as fault:
        raise NumericsError(f"{fault} {_layer(gated)}{questions_told(asked())}") from fault


def _layer(gated: GatedModel) -> str:
    # Minus infinity is how a head forbids an expert.
    odd = (
        one.layer
        for one in gated.trace.outputs.values()
        if bool((one.logits_TE.isnan() | (one.logits_TE == torch.inf)).any())
    )
    layer = next(odd, None)
    return "" if layer is None else f"The first router logits that are not finite: layer {layer}. "


def questions_told(asked: Sequence[str]) -> str:
    """Return the questions of a batch in words.

    Example:
        >>> questions_told(["a", "b"])
        'Questions: a, b.'
    """
    more = f" and {len(asked) - TOLD:,} more" if len(asked) > TOLD else ""
    return f"Questions: {', '.join(asked[:TOLD])}{more}."


def blamed(parts: Parts, parameters: Sequence[nn.Parameter]) -> list[str]:
    """Return the terms of an objective whose own gradients are not finite."""
    found = []
    for name, (weight, value) in parts.items():
        gradients = torch.autograd.grad(weight * value, parameters, retain_graph=True, allow_unused=True)
        if not_finite({str(place): one for place, one in enumerate(gradients)}):
            found.append(name)
    return found
