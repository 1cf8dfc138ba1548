"""How fast a machine is at what a mixture-of-experts model spends its time on: measured here, or from data sheets."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import ConfigError, did_you_mean

ROWS = (1, 4, 16, 64, 256, 1024)
"""Tokens per expert at which the expert is measured: below about a hundred its weights' way from memory decides."""
COPIED = 64 * 2**20
SHARES = {"matmul": 0.5, "memory": 0.7}
"""Share of the data sheet's figures assumed to be reached: matrix products, memory."""
NVME = 1e9
"""Bytes per second assumed for the disk beside a GPU from a data sheet."""
FEED, LAUNCH = 4e9, 4e-3
"""What is assumed of the host beside it (``MachineSpeed``): as beside an H200, whatever the batch size (2026-11-26)."""


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """What a machine reaches.

    Args:
        name: The machine, in words.
        source: ``measured``, or ``data sheet`` with the shares of it that are assumed.
        forward: Tokens per expert, ascending, and FLOP/s of an expert's products at so many.
        backward: The same for the gradient of its input.
        copy: Bytes per second read plus written when a large tensor is copied over another.
        disk: Bytes per second written to disk.
        memory: Bytes of memory.
        feed: Bytes per second at which kept prompts come from the host's memory to a GPU.
        launch: Fewest seconds of a layer, which a GPU is told kernel by kernel.
    """

    name: str
    source: str
    forward: tuple[tuple[float, float], ...]
    backward: tuple[tuple[float, float], ...]
    copy: float
    disk: float
    memory: float
    feed: float = math.inf
    launch: float = 0.0

    def rate(self, rows: float, backward: bool = False) -> float:
        """Return FLOP/s of a product of so many rows, interpolated between those known on logarithmic scales.

        Example:
            >>> speed = data_sheet("A100", torch.bfloat16)
            >>> speed.rate(10_000) / speed.rate(1) > 50
            True
        """
        curve = self.backward if backward else self.forward
        for (low, slow), (high, fast) in pairwise(curve):
            if low <= rows <= high:
                share = math.log(rows / low) / math.log(high / low)
                return math.exp((1 - share) * math.log(slow) + share * math.log(fast))
        return curve[0][1] if rows < curve[0][0] else curve[-1][1]

    @property
    def peak(self) -> float:
        """The fastest forward rate: the roof of the machine's roofline, FLOP/s."""
        return max(rate for _, rate in self.forward)


@dataclass(frozen=True, slots=True)
class DataSheet:
    """A GPU's published figures.

    Args:
        flops: Dense bfloat16 FLOP/s on tensor cores, without sparsity.
        bandwidth: Bytes per second of memory.
        memory: Bytes of memory.
    """

    flops: float
    bandwidth: float
    memory: float


# Where a sheet gives tensor core figures "with sparsity", half of them is meant here. The H100's were compared with
# a second source; the others are written down from memory of the sheets named and still to be compared with them.
GPUS = {
    "H100": DataSheet(989.4e12, 3.35e12, 80e9),  # SXM; NVIDIA H100 Tensor Core GPU, data sheet
    "H200": DataSheet(989.4e12, 4.8e12, 141e9),  # SXM; NVIDIA H200 Tensor Core GPU, data sheet
    "A100": DataSheet(312e12, 2.039e12, 80e9),  # SXM 80 GB; NVIDIA A100 Tensor Core GPU, data sheet
    "L40S": DataSheet(362.05e12, 864e9, 48e9),  # NVIDIA L40S, data sheet
    "L4": DataSheet(121e12, 300e9, 24e9),  # NVIDIA L4 Tensor Core GPU, data sheet
    "RTX4090": DataSheet(165.2e12, 1.008e12, 24e9),  # FP32 accumulation; NVIDIA Ada GPU Architecture, appendix A
    "RTX3090": DataSheet(71e12, 936e9, 24e9),  # FP32 accumulation; NVIDIA Ampere GA102 GPU Architecture, table 9
}
"""Data sheets by the name that ``estimate --machine`` takes."""


def data_sheet(name: str, dtype: torch.dtype) -> MachineSpeed:
    """Return a GPU's speed by its data sheet: the roofline of its products, at the shares of ``SHARES``.

    Formula: ``rate(rows) = min(flops, bandwidth * 2 * rows / bytes_per_weight)``.

    Raises:
        ConfigError: The GPU is unknown, or the dtype is another.
    """
    key = name.upper().replace(" ", "").replace("-", "")
    if key not in GPUS:
        raise ConfigError(
            f"expected a machine but got {name!r} (--machine). Hint: {did_you_mean(key, ['here', *GPUS])}"
        )
    if dtype.itemsize != 2:
        raise ConfigError(
            f"expected a dtype of two bytes for a GPU's data sheet but got {dtype} (model.base.dtype). "
            "Hint: --model.base.dtype bfloat16, or --machine here."
        )
    sheet = GPUS[key]
    flops, copy = SHARES["matmul"] * sheet.flops, SHARES["memory"] * sheet.bandwidth
    ridge = flops * dtype.itemsize / (2 * copy)
    curve = ((1.0, flops / ridge), (ridge, flops))
    assumed = f"data sheet, {SHARES['matmul']:.0%} of its FLOP/s and {SHARES['memory']:.0%} of its bandwidth assumed"
    return MachineSpeed(key, assumed, curve, curve, copy, NVME, sheet.memory, FEED, LAUNCH)


def measure(
    dtype: torch.dtype, seconds: float = 10.0, width: int = 2048, inner: int = 1024, folder: Path | None = None
) -> MachineSpeed:
    """Measure the speed of this machine's CPU, with as many threads as torch uses."""
    share = seconds / (len(ROWS) + 2)
    rates = [_expert_rates(dtype, rows, width, inner, share) for rows in ROWS]
    forward, backward = map(_curve, zip(*rates, strict=True))
    source = torch.ones(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = 2 * COPIED / _best(lambda: target.copy_(source), share)
    name = f"this machine ({torch.get_num_threads()} CPU threads)"
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return MachineSpeed(name, "measured", forward, backward, copy, _disk_rate(folder), memory)


def _curve(rates: Sequence[float]) -> tuple[tuple[float, float], ...]:
    # More rows are never slower: a dip is the doing of another program on the machine.
    return tuple(zip(map(float, ROWS), accumulate(rates, max), strict=True))


def _expert_rates(dtype: torch.dtype, rows: int, width: int, inner: int, seconds: float) -> tuple[float, float]:
    """Return FLOP/s of experts one after the other, forward and backward; at few rows no weight is used twice."""
    experts = max(1, min(8, ROWS[-1] // rows))
    gate_up = torch.full((experts, 2 * inner, width), 0.01, dtype=dtype)
    down = torch.full((experts, width, inner), 0.01, dtype=dtype)
    hidden = torch.ones(rows, width, dtype=dtype, requires_grad=True)

    def forward() -> list[Tensor]:
        outputs = []
        for place in range(experts):
            gate, up = functional.linear(hidden, gate_up[place]).chunk(2, dim=-1)
            outputs.append(functional.linear(functional.silu(gate) * up, down[place]))
        return outputs

    def both() -> None:
        outputs = forward()
        torch.autograd.grad(outputs, hidden, [torch.ones_like(one) for one in outputs])

    with torch.no_grad():
        there = _best(forward, seconds / 3)
    back = max(_best(both, 2 * seconds / 3) - there, there / 2)
    flops = 6.0 * experts * rows * width * inner
    return flops / there, flops / back


def _best(call: Callable[[], object], seconds: float) -> float:
    """Return the fewest seconds of repeated calls, at least two, after a first that allocates and compiles."""
    call()
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _disk_rate(folder: Path | None) -> float:
    block = os.urandom(COPIED)
    with tempfile.TemporaryFile(dir=folder) as handle:
        start = time.perf_counter()
        handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
        return COPIED / (time.perf_counter() - start)
