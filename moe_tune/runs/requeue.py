"""A job of a batch system that was warned before its time is up asks to be started again."""

import os
import signal
import subprocess

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from moe_tune.base.preemption import Preempted

PATIENCE = 20.0
"""Seconds that the batch system may take to answer."""


def requeue(end: Preempted) -> None:
    """Ask SLURM to start this job again where it sent SIGUSR1, and tell how that went."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or rank_zero_only.rank or end.signal_name != signal.SIGUSR1.name:
        return
    command = ["scontrol", "requeue", job]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        said = "done" if not ended.returncode else f"code {ended.returncode} {' '.join(ended.stderr.split())[:200]}"
    except (OSError, subprocess.TimeoutExpired) as fault:
        said = f"not done, {' '.join(str(fault).split())[:200]}"
    rank_zero_info(f"{' '.join(command)}: {said}")
