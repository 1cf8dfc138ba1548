"""The prompt caches in a folder: what each is of, whether it is complete, and how some are removed."""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from moe_tune.answer_path.store import open_store
from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.base.locks import cache_lock, holder, idle

OURS = re.compile(r"[0-9a-f]{16}(\..+)?")
"""Names of the folders that may be removed: a key, and for what is not finished a word after it."""
DESCRIBED = ("model", "kind", "split", "protocol", "few_shot", "first_layer", "layers")
"""Parts of a cache's description that ``list`` shows."""
DAY = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class KeptCache:
    """One folder of the root.

    Attributes:
        folder: The folder.
        record: What its ``cache.json`` says; ``None`` where it is not a complete cache.
        bytes: What it takes on disk.
        last_used: Seconds since the epoch.
    """

    folder: Path
    record: dict[str, Any] | None
    bytes: int
    last_used: float

    @property
    def key(self) -> str:
        return self.folder.name[:16]

    @property
    def state(self) -> str:
        """``complete``, ``unfinished`` or ``damaged``."""
        return "complete" if self.record else "damaged" if self.folder.name == self.key else "unfinished"

    def summary(self) -> dict[str, Any]:
        """Return what ``list`` says of it."""
        record = self.record or {}
        about = record.get("description", {})
        return {
            "key": self.key,
            "state": self.state,
            **{name: about.get(name) for name in DESCRIBED},
            "questions": record.get("questions"),
            "bytes": self.bytes,
            "created": record.get("created"),
            "last_used": datetime.fromtimestamp(self.last_used, UTC).isoformat(timespec="seconds"),
        }


def kept_caches(root: Path) -> list[KeptCache]:
    """Return all caches and unfinished builds in a folder, which need not exist; those used last come first."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        if OURS.fullmatch(folder.name) and folder.is_dir():
            with contextlib.suppress(FileNotFoundError):  # published or removed while we look
                store, states = open_store(folder), [path.stat() for path in (folder, *folder.iterdir())]
                size = sum(state.st_blocks * 512 for state in states)  # the files of an unfinished build have holes
                used = max(state.st_mtime for state in states)
                found.append(KeptCache(folder, store.record if store else None, size, used))
    return sorted(found, key=lambda one: (-one.last_used, one.folder.name))


def folders_of(kept: Sequence[KeptCache], beginning: str) -> list[KeptCache]:
    """Return the folders of the one key that begins so, a complete cache first.

    Raises:
        ConfigError: No key begins so, or several do.
    """
    keys = {one.key for one in kept if one.key.startswith(beginning)}
    if len(keys) > 1:
        raise ConfigError(f"expected one key but got {beginning!r}, which {len(keys)} begin with. Hint: more letters.")
    if not keys:
        hint = did_you_mean(beginning, {one.key for one in kept}) if kept else "python -m moe_tune cache list"
        raise ConfigError(f"expected the key of a prompt cache but got {beginning!r}. Hint: {hint}")
    return sorted((one for one in kept if one.key in keys), key=lambda one: one.state != "complete")


def cleaned(
    root: Path, kept: Sequence[KeptCache], keys: Sequence[str], every: bool, unfinished: bool, days: float | None
) -> Iterator[str]:
    """Remove caches that nobody builds, and yield in words what was kept and what was removed.

    Raises:
        ConfigError: A key names no cache or several, nothing is chosen, or a chosen cache is being built.
    """
    if not (keys or every or unfinished or days is not None):
        raise ConfigError("expected what to remove but got nothing (cache clean). Hint: KEY, --unfinished or --all.")
    require(days is None or days >= 0, "days from 0", days, "cache clean --older_than", "30.")
    named = {one.key for beginning in keys for one in folders_of(kept, beginning)}
    every = every or not (named or unfinished)
    freed = removed = 0
    for one in kept:
        wanted = every or one.key in named or (unfinished and one.state != "complete")
        if not wanted or (days is not None and time.time() - one.last_used < days * DAY):
            continue
        lock = cache_lock(root / one.key)
        if not idle(lock):
            busy = f"{holder(lock)} is building it"
            if one.key in named:
                raise ConfigError(f"expected an idle cache but got {one.key}: {busy}. Hint: wait for it, or stop it.")
            yield f"kept {one.key}: {busy}"
            continue
        try:  # nobody begins to build it now
            if one.folder.exists():
                shutil.rmtree(one.folder)
                freed, removed = freed + one.bytes, removed + 1
        finally:
            lock.release()
    yield f"removed {removed} of {len(kept)}, freed {decimal(freed)} ({root})"
