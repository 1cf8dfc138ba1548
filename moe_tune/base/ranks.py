"""What the processes of a distributed run know together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """One of the processes that work together; by default the only one.

    Args:
        rank: Which it is, from 0.
        world_size: How many there are.
        barrier: Waits until all have come here.
        broadcast: Gives every process what the first one has.
    """

    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], Any] = lambda: None
    broadcast: Callable[[Any], Any] = lambda value: value


ALONE = Ranks()


def several_ranks() -> bool:
    """Return whether this is one of several processes."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1


def joined_over_ranks(value: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of the processes; the tensor itself where there is one."""
    if not several_ranks():
        return value
    parts: list[Tensor | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, value.cpu())
    return torch.cat([part for part in parts if part is not None]).to(value.device)


def summed_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor itself where there is one."""
    if not several_ranks():
        return value
    # NCCL adds up what is on a GPU and nothing else.
    total = value.cuda() if torch.distributed.get_backend() == "nccl" and not value.is_cuda else value.clone()
    torch.distributed.all_reduce(total)
    return total.to(value.device)


def everywhere(holds: bool) -> bool:
    """Return whether something holds on every process."""
    return not summed_over_ranks(torch.tensor(int(not holds)))
