"""What this machine can do at most: OLMoE-1B-7B's expert products and copies of memory, as PyTorch runs them.

A command over ``moe_tune.planning.machine``; the other benches divide what they achieve by its best. Run it as
``python bench/roofline.py``.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds bench/

import torch

from bench.smoke import parsed
from moe_tune.planning.machine import measure

COPIED = 256 * 2**20
"""Bytes, more than the last cache of any CPU holds."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The best that this machine achieved.

    Args:
        flops_per_second: Floating-point operations per second of the fastest matrix product.
        bytes_per_second: Bytes read and written per second by a copy.
    """

    flops_per_second: float
    bytes_per_second: float

    def line(self, flops: float, moved: float, seconds: float) -> str:
        """Return how near a piece of work came to this machine's best.

        Args:
            flops: Its floating-point operations in matrix products.
            moved: The bytes of weights it has to read at least.
            seconds: What it took.
        """
        achieved, most = flops / seconds / 1e9, self.flops_per_second / 1e9
        share = f"{100 * achieved / most:.0f} %"
        moved_per_second = f"{moved / seconds / 1e9:.1f} GB/s of {self.bytes_per_second / 1e9:.1f}"
        return f"roofline: achieved {achieved:.1f} GFLOP/s of {most:.1f} ({share}), {moved_per_second}"


def roofline(dtype: torch.dtype = torch.float32, seconds: float = 3.0) -> Roofline:
    """Measure the machine.

    Args:
        dtype: Dtype of the products.
        seconds: About how long to measure.
    """
    return Roofline(measure(dtype, seconds).peak, copy_rate())


def copy_rate(repeats: int = 10) -> float:
    """Return bytes per second read plus written by a copy into memory in use; fresh memory costs page faults besides.

    Args:
        repeats: Copies; the fastest counts.
    """
    source = torch.ones(COPIED, dtype=torch.uint8)
    target, taken = source.clone(), []
    for _ in range(repeats):
        start = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - start)
    return 2 * COPIED / min(taken)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long to measure each dtype")
    seconds = parsed(parser, seconds=0.5).seconds
    from bench.mid_size import machine_line

    print(machine_line())
    speeds = {name: measure(getattr(torch, name), seconds) for name in ("float32", "bfloat16")}
    print("GFLOP/s " + "".join(f"{name + ' ' + way:>19}" for name in speeds for way in ("forward", "backward")))
    for rows, _ in speeds["float32"].forward:
        rates = [rate / 1e9 for one in speeds.values() for rate in (one.rate(rows), one.rate(rows, backward=True))]
        print(f"{rows:4.0f} rows" + "".join(f"{rate:19.1f}" for rate in rates).removeprefix(" "))
    fresh = speeds["float32"].copy / 1e9
    print(f"copy {copy_rate() / 1e9:.1f} GB/s read and written, {fresh:.1f} into fresh memory")
    print(f"roofline {speeds['float32'].peak / 1e9:.1f}")


if __name__ == "__main__":
    main()
