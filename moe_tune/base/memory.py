"""The memory a process has held, and giving back what it has freed."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

SYSTEM = Path("/proc/meminfo")


def peak_memory() -> int:
    """Return the most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # KiB but on macOS


def available_memory() -> int | None:
    """Return the bytes of memory that programs can have without swapping; ``None`` where the system does not say it."""
    try:
        lines = SYSTEM.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else 1024 * int(found.split()[1])  # in KiB


def give_back() -> None:
    """Return freed memory to the system where the C library keeps it: between small blocks glibc does, by gigabytes."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # not glibc


def let_go() -> None:
    """Give back the memory of objects that nobody holds any more, on a GPU too: another model comes into its place."""
    gc.collect()
    give_back()
    if "torch" in sys.modules:  # who has not loaded it holds nothing there
        sys.modules["torch"].cuda.empty_cache()
