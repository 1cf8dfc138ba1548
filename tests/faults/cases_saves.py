"""SIGKILL inside saves: what is half written is removed, and the same command ends with the same bits."""

import functools
import os
import random
import signal
import tempfile
import threading
from pathlib import Path

from moe_tune.faults.case import Case
from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.stopped_fit import SMALL, undisturbed

SEED = 0
CALLS = 450
"""Calls of the operating system that the saves of the small fit make."""
SAVES, SECONDS = 15, 0.012
"""Its saves, and how long one takes."""
MEMORY = Path("/dev/shm")
EXPECTED = "137, 0, same bits, left []"


def at_call(number):
    """Kill the process at the n-th call that a save makes of the operating system."""
    calls = {"left": number}

    def counted(function):
        def call(*args, **kwargs):
            here = any("last" in str(one) for one in args) and not Path("stopped").exists()
            if here:
                calls["left"] -= 1
                if calls["left"] < 0:
                    Path("stopped").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("replace", "link", "open", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def after(save, seconds):
    """Kill the process so long after the begin of its n-th save, or of a later one if it ends before that."""
    if Path("stopped").exists():
        return
    from lightning.pytorch.strategies import Strategy

    usual, begun = Strategy.save_checkpoint, [0]
    waits = [seconds]

    def kill(over):
        if not over.wait(waits[0]):
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def saved(self, *args, **kwargs):
        begun[0] += 1
        if begun[0] <= save:
            return usual(self, *args, **kwargs)
        over = threading.Event()
        killer = threading.Thread(target=kill, args=(over,), daemon=True)
        killer.start()
        try:
            return usual(self, *args, **kwargs)
        finally:
            over.set()
            killer.join()
            waits[0] *= 0.5

    Strategy.save_checkpoint = saved


def while_saving(before, elsewhere, trial):
    """Kill in a save, run the same command; ``elsewhere`` puts TMPDIR on another filesystem."""
    with tempfile.TemporaryDirectory(dir=MEMORY if elsewhere else trial.folder) as temporary:
        if elsewhere and os.stat(temporary).st_dev == os.stat(trial.folder).st_dev:
            return f"{MEMORY} is no other filesystem than that of {trial.folder}"
        first = trial.run(SMALL, env={"TMPDIR": temporary}, before=before)
        again = trial.run(SMALL, env={"TMPDIR": temporary})
    run = only_run(trial.folder / "runs")
    left = [path.name for path in run.rglob("*.tmp-*")] + [path.name for path in run.rglob("*.old-*")]
    off = unlike(run, undisturbed(SMALL)) if not again.code else [again.err[-300:]]
    return f"{first.code}, {again.code}, {'same bits' if not off else f'unlike: {off}'}, left {left}"


def case(name, before, elsewhere=False):
    where = ", TMPDIR on another filesystem" if elsewhere else ""
    attempt = functools.partial(while_saving, before, elsewhere)
    return Case("F3" if elsewhere else "F2", f"SIGKILL in a save, {name}{where}", EXPECTED, attempt)


def some_cases(number, seed=SEED):
    """Return so many cases, by call and by time in turn, every second pair with TMPDIR elsewhere."""
    drawn = random.Random(seed)
    cases = []
    for index in range(number):
        call, save, seconds = drawn.randrange(CALLS), drawn.randrange(SAVES), drawn.uniform(0, SECONDS)
        by_time = f"{1000 * seconds:.1f} ms after save {save} began", functools.partial(after, save, seconds)
        by_call = f"at its call {call}", functools.partial(at_call, call)
        cases.append(case(*(by_time if index % 2 else by_call), elsewhere=index % 4 > 1))
    return cases


CASES = some_cases(8, seed=1)
