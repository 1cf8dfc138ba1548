"""Tiny fits that many cases start from, made once: one that nothing disturbed, and one that was killed."""

import atexit
import shutil
import tempfile
import threading
from functools import cache, partial
from pathlib import Path

from moe_tune.faults.breaks import signal_at
from moe_tune.faults.same_run import compared, only_run
from moe_tune.faults.stopped_fit import undisturbed
from moe_tune.faults.tiny import KILLED_AT, TINY
from moe_tune.faults.trial import Trial

_MAKING = threading.Lock()


def as_undisturbed(run: Path) -> str:
    """Return how a tiny fit's run compares with one that nothing disturbed: ``bit for bit``, or what is another."""
    return compared(run, undisturbed(TINY))


def killed(trial: Trial) -> Path:
    """Give a trial's folder a copy of a fit that was killed after two saved epochs, and return its run directory."""
    with _MAKING:
        made = _killed()
    shutil.copytree(made / "runs", trial.folder / "runs")
    return only_run(trial.folder / "runs")


def finished(trial: Trial) -> Path:
    """Give a trial's folder a copy of a fit that ran to its end, and return its run directory."""
    shutil.copytree(undisturbed(TINY).parent, trial.folder / "runs")
    return only_run(trial.folder / "runs")


@cache
def _killed() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="moe_tune-reference-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ended = Trial(folder).run(TINY, before=partial(signal_at, KILLED_AT))
    if ended.code != 137:
        raise RuntimeError(f"expected a tiny fit to end with 137 but got {ended.code}: {ended.err[-500:]}")
    return folder
