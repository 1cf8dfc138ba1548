"""Memory on the host that is written again and again."""

import torch
from torch import Tensor

MOST_PINNED = 2**31
"""Bytes of pinned memory at most: to pin more takes longer than it spares."""


class HostBuffer:
    """Memory on the host that the next use overwrites: fresh memory of this size costs more than filling it.

    In a process that uses a GPU it is pinned, up to a size: the GPU reads and writes pinned memory many times faster.

    Args:
        dtype: Dtype of its values.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._values = torch.empty(0, dtype=dtype)

    def of(self, count: int) -> Tensor:
        """Return so many values, whatever is in them."""
        if len(self._values) < count:
            pinned = torch.cuda.is_initialized() and count * self._values.itemsize <= MOST_PINNED
            with torch.inference_mode(False):  # else training could not write to it after an evaluation made it
                self._values = torch.empty(count, dtype=self._values.dtype, device="cpu", pin_memory=pinned)
        return self._values[:count]

    def copy(self, value: Tensor) -> Tensor:
        """Return a tensor on the host: itself if it is there, else a copy, in this memory if it has its dtype."""
        if value.device.type == "cpu" or value.dtype != self._values.dtype:
            return value.cpu()
        return self.of(value.numel()).view(value.shape).copy_(value)
