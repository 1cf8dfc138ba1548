"""One process builds a prompt cache at once; the others wait, and a dead one's work is taken over."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

HEARTBEAT = 5.0
"""Seconds between signs of life."""
SILENT = 60.0
"""Seconds without one after which an owner on another machine counts as dead."""
POLL = 0.2
"""Seconds between looks at a lock that somebody else holds."""


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds or held a lock, as its file says.

    Args:
        pid: Process number; 0 where the file is not written yet.
        host: Name of the process's machine.
        started: When that machine started the process, so that a number given out again is not taken for it.
        token: Unique name of this holding.
    """

    pid: int
    host: str
    started: str | None
    token: str


class BuildLock:
    """A lock file that needs nothing of the filesystem but exclusive creation; ``with`` waits for it.

    A dead owner's lock is taken over by creating its successor, a file named after the dead owner's token: of several
    processes exactly one creates it, and nothing is ever taken away from a living owner. Who comes last in this chain
    of files holds the lock.

    Args:
        path: The lock file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = ""
        self._released = threading.Event()

    def __enter__(self) -> "BuildLock":
        """Wait until nobody else holds the lock, saying once for whom, and take it."""
        waited_for = None
        while not self._taken():
            owner = live_owner(self.path)
            if owner is not None and owner.pid and owner != waited_for:
                print(f"waiting for process {owner.pid} on {owner.host}, which builds this cache", file=sys.stderr)
                waited_for = owner
            time.sleep(POLL)
        link, _ = _chain(self.path)[-1]
        self._released = threading.Event()
        threading.Thread(target=_beat, args=(link, self._released), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the lock go, unless somebody who took this process for dead has it now."""
        self._released.set()
        chain = _chain(self.path)
        if chain and chain[-1][1].token == self._token:
            # The first goes first, so that who still succeeds one of the others finds that nothing leads there.
            for link, _owner in chain:
                link.unlink(missing_ok=True)

    def _taken(self) -> bool:
        chain = _chain(self.path)
        if chain and _alive(*chain[-1]):
            return False
        link = _successor(self.path, chain[-1][1]) if chain else self.path
        owner = LockOwner(os.getpid(), socket.gethostname(), _process_start(os.getpid()), uuid.uuid4().hex)
        written = json.dumps(asdict(owner)).encode()
        try:
            with link.open("xb", buffering=0) as file:
                file.write(written)
        except FileExistsError:
            return False
        chain = _chain(self.path)
        if not chain or chain[-1][1] != owner:  # its predecessors were let go meanwhile
            link.unlink(missing_ok=True)
            return False
        self._token = owner.token
        return True


def live_owner(path: Path) -> LockOwner | None:
    """Return who holds a lock; ``None`` where nobody does, or a dead process.

    Args:
        path: The lock file.
    """
    chain = _chain(path)
    return chain[-1][1] if chain and _alive(*chain[-1]) else None


def _chain(path: Path) -> list[tuple[Path, LockOwner]]:
    """Return the lock file and the successors of its dead owners, in order, each with its owner."""
    chain: list[tuple[Path, LockOwner]] = []
    link = path
    while (owner := _owner(link)) is not None:
        chain.append((link, owner))
        link = _successor(path, owner)
    return chain


def _successor(path: Path, owner: LockOwner) -> Path:
    return path.with_name(f"{path.name}.{owner.token}")


def _owner(link: Path) -> LockOwner | None:
    try:
        written, state = link.read_text(encoding="utf-8"), link.stat()
    except FileNotFoundError:
        return None
    try:
        return LockOwner(**json.loads(written))
    except (ValueError, TypeError):  # not written yet, or its process died before it could
        return LockOwner(0, "", None, f"unwritten-{state.st_ino}-{state.st_mtime_ns}")


def _alive(link: Path, owner: LockOwner) -> bool:
    if owner.host == socket.gethostname():
        started = _process_start(owner.pid)
        return started is not None and (started == owner.started or not started or not owner.started)
    with contextlib.suppress(FileNotFoundError):
        return time.time() - link.stat().st_mtime < SILENT
    return False


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started; empty where that is not told, ``None`` where there is none."""
    with contextlib.suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        # A killed process whose main thread is gone still runs while another thread ends what it was writing.
        return None if state in "ZX" and int(fields[16]) <= 1 else fields[18]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it runs, for another user
        return ""
    return ""


def _beat(link: Path, released: threading.Event) -> None:
    while not released.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(link)
