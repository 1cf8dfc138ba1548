"""Sums over the processes of a distributed run."""

import torch.distributed
from torch import Tensor


def summed_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor itself where there is one.

    Args:
        value: Of the same shape on every process.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total
