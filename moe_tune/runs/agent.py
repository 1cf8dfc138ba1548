"""A run under a W&B agent: the names it gets from the environment, and an end that the agent asked for."""

import os
import re
import sys
from pathlib import Path

from moe_tune.base.errors import require
from moe_tune.base.preemption import Preempted
from moe_tune.runs.directory import RunDirectory

STOPPED = "stopped_early"
"""Key of the W&B summary, and status in the manifest."""


class StoppedBySweep(SystemExit):
    """A sweep run on this machine has stopped one of its runs; to Lightning and W&B it ends as under an agent."""


def sweep_id() -> str | None:
    """Return the id of the sweep this process belongs to; ``None`` outside of an agent."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def own_folder(path: Path) -> Path:
    """Return the run directory's path, under an agent with the W&B run's id in place of the configuration's hash.

    Raises:
        ConfigError: The id is no part of a folder's name.
    """
    run_id = os.environ.get("WANDB_RUN_ID")
    if sweep_id() is None or not run_id:
        return path
    plain = re.fullmatch(r"[\w.-]{1,128}", run_id) is not None
    require(plain, "letters, digits, _, . and -", run_id, "environment variable WANDB_RUN_ID", "unset it.")
    return path.with_name(f"{path.name.rpartition('-')[0]}-{run_id}")


def stopped_by_sweep(end: SystemExit) -> bool:
    """Return whether a sweep ended the run before it was complete.

    An agent sends SIGTERM, and W&B's own thread raises what a keyboard would; a child of an agent is in a process group
    of its own, where no Ctrl-C of a keyboard arrives.
    """
    if isinstance(end, StoppedBySweep):
        return True
    return sweep_id() is not None and (isinstance(end, Preempted) or isinstance(end.__context__, KeyboardInterrupt))


def record_end(directory: RunDirectory, *, early: bool) -> None:
    """Write into the manifest and the W&B summary whether a run of a sweep was stopped before it was complete."""
    if sweep_id() is None and not early:
        return
    if directory.manifest:
        status = {"status": STOPPED} if early else {}
        directory.update_manifest(
            sweep={"id": sweep_id(), "run": os.environ.get("WANDB_RUN_ID"), STOPPED: early}, **status
        )
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.run.summary[STOPPED] = early
