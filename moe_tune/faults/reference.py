"""Tiny fits that many cases start from, made once: one that nothing disturbed, and one that was killed."""

import atexit
import shutil
import tempfile
import threading
from functools import cache, partial
from pathlib import Path
from typing import Any

from moe_tune.faults.breaks import signal_at
from moe_tune.faults.tiny import KILLED_AT, TINY, left, only_run
from moe_tune.faults.trial import Trial

_MAKING = threading.Lock()


def undisturbed() -> Path:
    """Return the folder in which a tiny fit ran to its end; only read it."""
    with _MAKING:
        return _made(None)


def undisturbed_left() -> dict[str, Any]:
    """Return what the fit left that nothing disturbed."""
    return left(only_run(undisturbed()))


def killed(trial: Trial) -> Path:
    """Give a trial's folder a copy of a fit that was killed after two saved epochs, and return its run directory."""
    with _MAKING:
        made = _made(KILLED_AT)
    shutil.copytree(made / "runs", trial.folder / "runs")
    return only_run(trial.folder)


def finished(trial: Trial) -> Path:
    """Give a trial's folder a copy of a fit that ran to its end, and return its run directory."""
    shutil.copytree(undisturbed() / "runs", trial.folder / "runs")
    return only_run(trial.folder)


@cache
def _made(step: int | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="moe_tune-reference-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ended = Trial(folder).run(TINY, before=None if step is None else partial(signal_at, step))
    wanted = 0 if step is None else 137
    if ended.code != wanted:
        raise RuntimeError(f"expected a tiny fit to end with {wanted} but got {ended.code}: {ended.err[-500:]}")
    return folder
