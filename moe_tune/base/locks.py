"""Every lock of the program: one worker at a time on a run, a sweep or an experiment, one builder of a prompt cache."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import FileLock, SoftFileLease, Timeout

from moe_tune.base.errors import ConfigError
from moe_tune.base.published import require_writable, tidied

FOLDER = ".locks"
PATIENCE = 1.0
"""Seconds before a lock counts as held: who lets go takes the file away, and who opened that file looks again."""
TRIES = 100
"""How often a lock is tried for whose folder is gone each time."""
LEASE = 60.0
"""Seconds without a sign of life after which the builder of a cache, wherever it runs, counts as dead."""
HEARTBEAT = 5.0
"""Seconds between signs of life."""
UNWRITTEN = 15.0
"""Seconds after which a lock of a cache that says nothing of its holder has none."""
SOMEBODY = "another process"
"""Who holds a lock that says nothing of its holder, or has just been let go."""


class WorkLock:
    """Held by the first process of a job for as long as it works on a folder; it ends with the process.

    The lock lies beside the folder, in ``.locks``: inside, it would move away with it. What decides is ``flock``, and
    where a filesystem has none filelock's own file, which is taken over from a dead process of this host and PID
    namespace only; the owner written down beside it is for people.

    Args:
        target: The folder, which need not exist.
        what: What it is, such as ``a run``.
        hint: What to do if another process works on it.
    """

    def __init__(self, target: Path, what: str, hint: str = "wait for it, or stop it.") -> None:
        self.target, self.what, self.hint = target.resolve(), what, hint
        self._owner = self.target.parent / FOLDER / f"{self.target.name}.json"
        self._lock = FileLock(self._owner.with_suffix(f"{self._owner.suffix}.lock"), thread_local=False)

    def take(self) -> Self:
        """Take the lock.

        Raises:
            ConfigError: Another process has it, or there is no place for it.
        """
        try:
            for _ in range(TRIES):
                if self._lock.is_locked:
                    break
                with suppress(FileNotFoundError):  # who let go last has just removed the folder of locks
                    self._lock.acquire(timeout=PATIENCE)
            if not self._lock.is_locked:
                raise ConfigError(
                    f"expected a place for a lock but none can be made in {self._owner.parent} ({self.target}). "
                    "Hint: a folder on a disk that can be written to."
                )
        except Timeout as fault:
            raise ConfigError(
                f"expected {self.what} that no other process works on but got one that {self._held_by()} "
                f"({self.target}). Hint: {self.hint}"
            ) from fault
        now = datetime.now(UTC).isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
        self._owner.write_text(json.dumps(owner), encoding="utf-8")
        return self

    def let_go(self) -> None:
        """Let the lock go, if it is held, and leave nothing behind."""
        if self._lock.is_locked:
            file = Path(self._lock.lock_file)
            self._owner.unlink(missing_ok=True)
            with suppress(OSError):
                if not file.stat().st_size:  # without flock the file is the lock, and filelock removes it
                    file.unlink()
            self._lock.release()
            with suppress(OSError):  # others are in it
                file.parent.rmdir()

    def __enter__(self) -> Self:
        return self.take()

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def _held_by(self) -> str:
        try:
            owner = json.loads(self._owner.read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']} has worked on since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # it has not written itself down yet
            return "another process works on"


@contextmanager
def output_folder(folder: Path, where: str = "--out") -> Iterator[None]:
    """Hold a folder of results while a verb fills it, after ending what a killed process was publishing there.

    Args:
        folder: The folder, which need not exist.
        where: The option that names it.

    Raises:
        ConfigError: It cannot be written to, or another process fills it.
    """
    require_writable(folder, "a folder to write to", where, f"{where} FOLDER.")
    with WorkLock(folder, "a folder", f"wait for it, or {where} FOLDER for another."):
        for place, name in ((folder.resolve().parent, folder.resolve().name), (folder, None)):
            if place.is_dir():
                tidied(place, name)
        yield


def refuse_work_within(folder: Path) -> None:
    """Refuse to move a folder while another process fills one within it.

    Raises:
        ConfigError: One does.
    """
    for file in folder.rglob(f"{FOLDER}/*.json.lock"):
        within = file.parent.parent / file.name.removesuffix(".json.lock")
        with WorkLock(within, "a folder"):
            pass


def cache_lock(folder: Path) -> SoftFileLease:
    """Return the lock of who builds or removes a prompt cache: a file, as caches are shared without ``flock``, too."""
    file = folder.with_name(f"{folder.name}.lock")
    return SoftFileLease(file, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, thread_local=False)


def forget_unwritten(lock: SoftFileLease) -> None:
    """Take away a cache's lock that says nothing of its holder, who was killed before it wrote itself down.

    filelock leaves such files, as its older releases never wrote anything; whoever builds a cache writes within
    milliseconds.
    """
    file = Path(lock.lock_file)
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    with suppress(OSError):
        seen = file.stat()
        if seen.st_size or time.time() - seen.st_mtime < UNWRITTEN:
            return
        file.rename(aside)
        if aside.stat().st_ino == seen.st_ino:
            aside.unlink()
        else:  # another process has just done the same, and has the lock
            aside.rename(file)


def holder(lock: SoftFileLease) -> str:
    """Return who holds a cache's lock, in words."""
    owner = lock.owner
    # filelock writes the PID namespace behind the host's name, so that containers are told apart.
    return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else SOMEBODY


def idle(lock: SoftFileLease) -> bool:
    """Take a cache's lock if nobody builds that cache; a sign of life that is old already is watched for one lease."""
    forget_unwritten(lock)
    silence = 0.0
    with suppress(FileNotFoundError):
        silence = time.time() - Path(lock.lock_file).stat().st_mtime
    with suppress(Timeout):
        lock.acquire(timeout=LEASE + HEARTBEAT if silence > LEASE else 0.0)
    return lock.is_locked
