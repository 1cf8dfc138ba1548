"""The decisions of those who act on parts of a batch, put together to one output of the layer."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.routing import Decision, Rows


def assembled(parts: list[Tensor], rows: list[Rows], tokens: int) -> Tensor:
    """Return one tensor of all tokens from those of parts of them; every token is in one part.

    Example:
        >>> parts = [torch.tensor([0, 3]), torch.tensor([1, 2])]
        >>> assembled(parts, [torch.tensor([0, 3]), torch.tensor([1, 2])], 4).tolist()
        [0, 1, 2, 3]
        >>> assembled(parts, [slice(0, None, 2), slice(1, None, 2)], 4).tolist()
        [0, 1, 3, 2]
    """
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(where, slice) for where in rows):
        return torch.stack(parts, dim=1).flatten(0, 1)
    whole = parts[0].new_empty(tokens, *parts[0].shape[1:])
    for part, where in zip(parts, rows, strict=True):
        whole[where] = part
    return whole


def widened(decision: Decision, slots: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return weights, experts and used slots of a decision with more slots; the spare ones repeat the first expert.

    Args:
        decision: A routing decision.
        slots: Slots wanted, at least as many as it has.
    """
    weights_TK, experts_TK, used_TK = decision.weights_TK, decision.experts_TK, decision.used_TK
    spare = slots - experts_TK.shape[1]
    if not spare:
        return weights_TK, experts_TK, used_TK
    every_TK = torch.ones_like(experts_TK, dtype=torch.bool)
    return (
        functional.pad(weights_TK, (0, spare)),
        torch.cat([experts_TK, experts_TK[:, :1].expand(-1, spare)], dim=1),
        functional.pad(every_TK if used_TK is None else used_TK, (0, spare)),
    )
