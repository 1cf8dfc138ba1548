"""What decides whether another run gives the same bits: processor, threads, the GPU's setting, the libraries."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PINS = "constraints.txt"


def tested_versions() -> dict[str, str]:
    """Return the versions that were tested together, by library, as the wheel and the checkout name them."""
    inside = PACKAGE / PINS
    file = inside if inside.is_file() else PACKAGE.parent / PINS
    pinned = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pinned if not name.startswith("#")}


def outside_tested(versions: Mapping[str, str | None], tested: Mapping[str, str]) -> list[str]:
    """Return a line for every library that is another than the tested one; a build such as ``+cpu`` does not count.

    Example:
        >>> outside_tested({"torch": "2.14.1", "peft": "0.21.2"}, {"torch": "2.13.0", "peft": "0.21.2"})
        ['torch 2.14.1 is not the tested 2.13.0. Hint: make install, or pip install -c constraints.txt torch.']
    """
    return [
        f"{name} {version} is not the tested {tested[name]}. Hint: make install, or pip install -c {PINS} {name}."
        for name, version in versions.items()
        if version is not None and name in tested and version.partition("+")[0] != tested[name]
    ]


def processor() -> str:
    """Return the kind of processor, as far as rounding hangs on it: its family and what torch makes use of."""
    import torch

    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    told = {name.strip(): value.strip() for name, value in pairs}
    names = ("vendor_id", "cpu family", "model", "stepping")
    kind = " ".join(told[name] for name in names if name in told) or platform.machine()
    return f"{kind} {torch.backends.cpu.get_cpu_capability()}"


def threads_apart(threads: int, cores: int, asked: str | None) -> list[str]:
    """Return what of the threads would change the bits elsewhere.

    Args:
        threads: As many as torch computes with; 1 or more.
        cores: As many as this process may use; 1 or more.
        asked: What ``OMP_NUM_THREADS`` says; ``None`` where it is unset.

    Example:
        >>> threads_apart(2, 2, "2")
        []
        >>> threads_apart(4, 2, "4")
        ['4 threads on 2 cores: slow, and sums are split in 4. Hint: OMP_NUM_THREADS=2.']
    """
    found = []
    if asked is None:
        found.append(
            f"OMP_NUM_THREADS is unset: {threads} threads; a machine with other cores splits "
            f"its sums otherwise. Hint: OMP_NUM_THREADS={threads}."
        )
    if threads > cores:
        found.append(
            f"{threads} threads on {cores} cores: slow, and sums are split in {threads}. Hint: OMP_NUM_THREADS={cores}."
        )
    return found


def what_would_differ(versions: Mapping[str, str | None]) -> list[str]:
    """Return what here would keep another run, here or elsewhere, from giving the same bits; imports torch."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = threads_apart(torch.get_num_threads(), cores, os.environ.get("OMP_NUM_THREADS"))
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if torch.cuda.is_available() and workspace not in (":4096:8", ":16:8"):
        found.append(
            f"CUBLAS_WORKSPACE_CONFIG is {workspace or 'unset'}: products on the GPU may differ from run to run. "
            "Hint: CUBLAS_WORKSPACE_CONFIG=:4096:8."
        )
    if not torch.backends.mkldnn.is_available() or os.environ.get("ONEDNN_MAX_CPU_ISA"):
        found.append(
            "oneDNN is missing or held back (ONEDNN_MAX_CPU_ISA): products round otherwise than with all of it."
        )
    return found + outside_tested(versions, tested_versions())
