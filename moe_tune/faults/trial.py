"""Where fault cases run: a folder of their own, and processes forked from one that has imported everything.

Forking after OpenMP has worked can hang, so the process that forks has computed nothing.
"""

import atexit
import functools
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PATIENCE = 120.0
"""Seconds after which a process counts as hanging."""
HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; 128 + number where a signal ended it, as a shell says it.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        seconds: How long it took.
    """

    code: int
    out: str
    err: str
    seconds: float


class Started:
    """A process that runs ``python -m moe_tune`` with some arguments."""

    def __init__(self, process: ForkServerProcess, files: tuple[Path, Path]) -> None:
        self.process, self.files, self.begun = process, files, time.monotonic()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def ended(self, patience: float = PATIENCE) -> Ended:
        """Wait for the end.

        Raises:
            TimeoutError: It did not end in time, and was killed.
        """
        self.process.join(patience)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{HANGS}: {patience:.0f} s; {self.files[1].read_text(errors='replace')[-300:]}")
        # A signal may have ended it before it wrote anything.
        out, err = (file.read_text(encoding="utf-8", errors="replace") if file.exists() else "" for file in self.files)
        return Ended(128 - code if code < 0 else code, out, err, time.monotonic() - self.begun)


class Trial:
    """What a case gets: an empty folder, which is also its working directory, and processes.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._number = folder, 0

    def _around(self) -> dict[str, str]:
        """Return the environment: ledger and temporary files of the case's own, and prompt caches that cases share."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        own = {"XDG_STATE_HOME": str(self.folder / "state"), "TMPDIR": str(temporary)}
        return {**os.environ, **own, "XDG_CACHE_HOME": _cache()}

    def start(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> Started:
        """Start a command in a process forked from one that has imported everything and computed nothing.

        Args:
            argv: The verb and its arguments.
            env: Environment variables beside those of this process. What libraries read when they are imported has been
                read already: see ``fresh``.
            before: Called in the new process first, such as to break something in it; a function of a module.
        """
        self._number += 1
        files = (self.folder / f"{self._number}.out", self.folder / f"{self._number}.err")
        words = (list(argv), {**self._around(), **(env or {})}, str(self.folder), tuple(map(str, files)), before)
        process = _forking().Process(target=_command, args=words)
        process.start()
        return Started(process, files)

    def run(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> Ended:
        """Run a command as ``start`` does, to its end."""
        return self.start(argv, env, before).ended()

    def fresh(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        without: Sequence[str] = (),
    ) -> Ended:
        """Run a command in a new interpreter, which takes seconds longer: for what is read at import.

        Raises:
            TimeoutError: It did not end in time, and was killed.
        """
        begun = time.monotonic()
        # Modules of this process are found there, too, whichever folder it runs in.
        paths = {"PYTHONPATH": os.pathsep.join(one or str(Path.cwd()) for one in sys.path)}
        around = {**self._around(), **paths, **(env or {})}
        for name in without:
            around.pop(name, None)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "moe_tune", *argv],
                cwd=self.folder,
                env=around,
                capture_output=True,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired as fault:
            raise TimeoutError(f"{HANGS}: {patience:.0f} s; {(fault.stderr or b'')[-300:]!r}") from fault
        code = ended.returncode
        out, err = (text.decode(errors="replace") for text in (ended.stdout, ended.stderr))
        return Ended(128 - code if code < 0 else code, out, err, time.monotonic() - begun)


@functools.cache
def _cache() -> str:
    folder = tempfile.mkdtemp(prefix="moe_tune-fault-caches-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _forking() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moe_tune.faults.preloaded"])
    return context


def _command(
    argv: list[str], env: dict[str, str], folder: str, files: tuple[str, str], before: Callable[[], None] | None
) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, name in enumerate(files, start=1):
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(folder)
    tempfile.tempdir = None  # asked for anew: TMPDIR may be another one
    multiprocessing.set_start_method(None, force=True)  # the platform's own again, as in a process of its own
    if before is not None:
        before()
    sys.argv = ["moe_tune", *argv]
    runpy.run_module("moe_tune", run_name="__main__")
