"""The W&B logger: offline unless someone is logged in, never asking, never stopping a run."""

import netrc
import os
import sys
from typing import Any

from lightning.pytorch.loggers import WandbLogger


class RouterWandbLogger(WandbLogger):
    """Logs to Weights & Biases without ever asking for a login: offline when nobody is logged in.

    ``WANDB_MODE`` decides if it is set. An offline run is sent later with ``wandb sync``.

    Args:
        project: W&B project, one per study.
        name: Display name of the run; ``null`` takes the run directory's.
        save_dir: Where files go; ``null`` takes the run directory.
        group: Runs that belong together, such as an experiment's name.
        tags: Words to find the run by.
        resume: How a run of the same id is continued.
    """

    def __init__(
        self,
        project: str = "moe_tune",
        name: str | None = None,
        save_dir: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        resume: str = "allow",
    ) -> None:
        offline = not logged_in()
        super().__init__(
            name=name,
            save_dir=save_dir,
            project=project,
            offline=offline,
            group=group,
            tags=tags,
            resume=resume,
            settings=_settings(offline),
        )
        # Lightning passes it although wandb 0.31 only answers it with a warning.
        self._wandb_init.pop("anonymous")


def _settings(offline: bool) -> Any:
    import wandb

    return wandb.Settings(
        mode="offline" if offline else os.environ.get("WANDB_MODE", "online"),
        save_code=False,
        x_disable_meta=True,  # it would store the command line
        silent=True,
    )


def close_wandb_run(failed: bool) -> None:
    """End the process's W&B run, so that the next run of the same process gets one of its own.

    Args:
        failed: Whether the run ended with an error.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def logged_in() -> bool:
    """Return whether W&B may be reached: a mode is set that says so, or a key is there."""
    mode = os.environ.get("WANDB_MODE")
    if mode is not None:
        return mode == "online"
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(netrc.netrc().authenticators("api.wandb.ai"))
    except (OSError, netrc.NetrcParseError):
        return False
