"""The verb ``cache``: which prompt caches there are, what is in one, and away with those nobody needs."""

import argparse
import contextlib
import json
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, did_you_mean

OURS = re.compile(r"[0-9a-f]{16}(\..+)?")
"""Names of the folders that may be removed: a key, and for what is not finished a word after it."""
DESCRIBED = ("model", "kind", "split", "protocol", "few_shot", "first_layer", "layers")
"""Parts of a cache's description that ``list`` shows."""
DAY = 24 * 60 * 60


def main(argv: list[str]) -> int:
    """Do one of ``list``, ``info``, ``clean`` and ``build``, and return the exit code.

    Args:
        argv: Arguments after the verb.

    Raises:
        ConfigError: A key names no cache or several, nothing is chosen to be removed, or a chosen cache is being built.
    """
    if argv[:1] == ["build"]:
        from moe_tune.cli.cache_build import build_from_config

        return build_from_config(argv[1:])
    given = build_parser().parse_args(argv)
    # Imported here so that --help answers at once.
    from moe_tune.answer_path.store import cache_root

    root = cache_root(given.folder)
    kept = kept_caches(root)
    if given.action == "info":
        one = folders_of(kept, given.key)[0]
        print(json.dumps(one.record or one.summary(), indent=2, ensure_ascii=False))
    elif given.action == "clean":
        _clean(root, kept, given)
    elif given.format == "json":
        print(json.dumps([one.summary() for one in kept], indent=2, ensure_ascii=False))
    else:
        _print_table(root, kept)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the verb's argument parser."""
    parser = argparse.ArgumentParser(prog="python -m moe_tune cache", description="Look after prompt caches.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show all caches and unfinished builds")
    listing.add_argument(
        "--format", choices=["text", "json"], default="text", help="text for people, json for programs"
    )
    info = actions.add_parser("info", help="show everything known about one")
    info.add_argument("key", metavar="KEY", help="key of a cache, or how it begins")
    clean = actions.add_parser("clean", help="remove caches")
    clean.add_argument("keys", nargs="*", metavar="KEY", help="key of a cache to remove, or how it begins")
    clean.add_argument("--all", action="store_true", help="remove every cache and unfinished build")
    clean.add_argument("--unfinished", action="store_true", help="remove unfinished builds and damaged caches")
    clean.add_argument("--older_than", type=float, metavar="DAYS", help="only what was not used for so many days")
    for action in (listing, info, clean):
        action.add_argument(
            "--folder", metavar="DIR", help="where the caches are (default: model.answer_path.folder's)"
        )
    actions.add_parser("build", help="build the caches that a configuration will use: --config FILE ...")
    return parser


@dataclass(frozen=True, slots=True)
class KeptCache:
    """One folder of the root.

    Args:
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
        """The key it is kept under."""
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
    """Return all caches and unfinished builds in a folder, those used last first.

    Args:
        root: The folder; it need not exist.
    """
    from moe_tune.answer_path.store import open_store

    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        if OURS.fullmatch(folder.name) and folder.is_dir():
            with contextlib.suppress(FileNotFoundError):  # published or removed while we look
                store, states = open_store(folder), [path.stat() for path in (folder, *folder.iterdir())]
                size = sum(state.st_blocks * 512 for state in states)  # the files of an unfinished build have holes
                used = max(state.st_mtime for state in states)
                found.append(KeptCache(folder, store.record if store else None, size, used))
    return sorted(found, key=lambda one: (-one.last_used, one.folder.name))


def folders_of(kept: list[KeptCache], beginning: str) -> list[KeptCache]:
    """Return the folders of the one key that begins so, a complete cache first.

    Args:
        kept: What there is.
        beginning: The key, or its first letters.

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


def _clean(root: Path, kept: list[KeptCache], given: argparse.Namespace) -> None:
    from rich.filesize import decimal

    from moe_tune.base.locks import cache_lock, holder, idle

    days = given.older_than
    if not (given.keys or given.all or given.unfinished or days is not None):
        raise ConfigError("expected what to remove but got nothing (cache clean). Hint: KEY, --unfinished or --all.")
    if days is not None and not days >= 0:
        raise ConfigError(f"expected days from 0 but got {days} (cache clean --older_than). Hint: 30.")
    named = {one.key for beginning in given.keys for one in folders_of(kept, beginning)}
    every = given.all or not (named or given.unfinished)
    freed = removed = 0
    for one in kept:
        wanted = every or one.key in named or (given.unfinished and one.state != "complete")
        if not wanted or (days is not None and time.time() - one.last_used < days * DAY):
            continue
        lock = cache_lock(root / one.key)
        if not idle(lock):
            busy = f"{holder(lock)} is building it"
            if one.key in named:
                raise ConfigError(f"expected an idle cache but got {one.key}: {busy}. Hint: wait for it, or stop it.")
            print(f"kept {one.key}: {busy}")
            continue
        try:  # nobody begins to build it now
            if one.folder.exists():
                shutil.rmtree(one.folder)
                freed, removed = freed + one.bytes, removed + 1
        finally:
            lock.release()
    print(f"removed {removed} of {len(kept)}, freed {decimal(freed)} ({root})")


def _print_table(root: Path, kept: list[KeptCache]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("key", "model", "split", "protocol", "questions", "layers", "size", "created", "last used"):
        table.add_column(name, justify="right" if name in ("questions", "size") else "left", overflow="fold")
    for one in kept:
        says = one.summary()
        cells = [f"({one.state})", *[""] * 4]
        if one.record:
            layers = f"{says['first_layer']}-{says['layers'] - 1}"
            protocol = f"{says['protocol']}, {says['few_shot']}-shot"
            cells = [str(says["model"]), says["split"], protocol, f"{says['questions']:,}", layers]
        cells += [decimal(one.bytes), (says["created"] or "")[:10], says["last_used"][:10]]
        table.add_row(one.key, *map(Text, cells))
    console = Console()
    console.print(table)
    total = decimal(sum(one.bytes for one in kept))
    console.print(f"{len(kept)} in {root}, {total}", soft_wrap=True, highlight=False)
