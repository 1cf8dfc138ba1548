"""What cases share: a finished tiny run, made once and copied, and ways to break something in a process."""

import atexit
import functools
import importlib
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from cases_endings import TINY

from moe_tune.faults.same_run import only_run
from moe_tune.faults.trial import Trial

LOCK = threading.Lock()
FILLER = "filler"


def copied_run(trial):
    """Return a finished run of two epochs in the folder of a case."""
    with LOCK:
        made = _made_run()
    return Path(shutil.copytree(made, trial.folder / "runs" / made.name))


@functools.cache
def _made_run():
    folder = Path(tempfile.mkdtemp(prefix="moe_tune-fault-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ended = Trial(folder).run(["fit", *TINY])
    assert ended.code == 0, ended.err
    return only_run(folder / "runs")


def first_line(ended):
    """Return the code and how the last line begins that a process wrote to stderr."""
    lines = [line for line in ended.err.splitlines() if line.strip()] or [""]
    return f"exit {ended.code}: {lines[-1][:160]}"


def says(ended, *words):
    """Return nothing where one line says all the words and nothing looks like a traceback, else what there was."""
    if "Traceback" in ended.err:
        return " with a traceback"
    if any(all(word in line for word in words) for line in ended.err.splitlines()):
        return ""
    return f" without {', '.join(words)} ({first_line(ended)})"


def litter(folder):
    """Return the drafts that are left in a folder, in words; nothing where there are none."""
    left = [path.name for path in folder.rglob("*") if ".tmp-" in path.name or ".old-" in path.name]
    return f", litter {left[:3]}" if left else ""


@contextmanager
def small_disk(folder, size="32m"):
    """Give a small filesystem of its own, if this user may mount one, else a plain folder.

    Yields:
        Whether it is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(options, capture_output=True, check=False).returncode
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def no_room():
    """Take all room from here on: of the disk ``SMALL_DISK``, or without one of every file that this process writes."""
    if not os.environ["SMALL_DISK"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        return
    with open(Path(os.environ["SMALL_DISK"]) / FILLER, "ab", buffering=0) as filler:
        try:
            while filler.write(bytes(1 << 16)):
                pass
        except OSError:
            pass


def pause():
    """Stand still until the file ``go`` is there, after saying so by ``begun``."""
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.02)


def before_call(act):
    """Do something before a call that ``BREAK`` names, ``module:attribute|words of its arguments|number``."""
    place, words, number = os.environ["BREAK"].split("|")
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *above, name = path.split(".")
    for one in above:
        owner = getattr(owner, one)
    usual, calls = getattr(owner, name), [0]

    @functools.wraps(usual)
    def changed(*args, **kwargs):
        if words in " ".join(map(str, [*args, *kwargs.values()])):
            calls[0] += 1
            if calls[0] == int(number):
                act()
        return usual(*args, **kwargs)

    setattr(owner, name, changed)


def full_before_call():
    """Let the disk be full from a call on."""
    before_call(no_room)


def pause_before_call():
    """Stand still before a call."""
    before_call(pause)


def wait_for(file, process, seconds=60):
    """Wait until a file is there; a process that ends before it is a fault of the case."""
    until = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > until or process.process.exitcode is not None:
            raise TimeoutError(f"{file.name} never came: {process.files[1].read_text()[-300:]}")
        time.sleep(0.02)
