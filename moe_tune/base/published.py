"""Writing files and folders so that a reader sees all of it or nothing."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_tune.base.errors import MoeTuneError, require
from moe_tune.base.resources import full_disk, out_of_disk, size_of, unusable_place

if TYPE_CHECKING:
    import pandas as pd

LEFT = re.compile(r"(?P<target>.+)\.(?P<kind>old|tmp)-[0-9a-f]{8}")
"""Names of what a kill leaves: a draft, or what was there before."""


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Give a draft path beside a target; on success the draft, a file or a folder, takes the target's place.

    The draft is a sibling, so that the final rename never crosses a filesystem; it is flushed to disk first. Whatever
    happens, what was there before stays until then, and no draft is left.

    Raises:
        ResourceError: The disk is full, whichever library wrote.
        ConfigError: The place cannot be written to.
    """
    draft = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        for path in [draft, *draft.rglob("*")] if draft.is_dir() else [draft]:
            _flush(path)
        if target.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside, and is removed when the new one stands.
            old = target.with_name(f"{target.name}.old-{uuid.uuid4().hex[:8]}")
            os.replace(target, old)
            try:
                os.replace(draft, target)
            except OSError:
                os.replace(old, target)
                raise
            try:
                _flush(target.parent)
            finally:
                shutil.rmtree(old)
        else:
            os.replace(draft, target)
            _flush(target.parent)
    except MoeTuneError:
        raise
    except Exception as fault:
        if out_of_disk(fault):
            raise full_disk(target, fault, size_of(draft)) from fault
        if told := unusable_place(fault, target):
            raise told from fault
        raise
    finally:
        with suppress(OSError):  # what went wrong is told, not that its litter stays
            if draft.is_dir():
                shutil.rmtree(draft)
            else:
                draft.unlink(missing_ok=True)


def tidied(folder: Path, name: str | None = None) -> list[Path]:
    """End what killed processes were publishing in a folder, and return what was put back.

    What had stepped aside for a successor that does not stand comes back; all else that is left of them goes. Only who
    knows that nobody is publishing there may call this.

    Args:
        folder: The folder.
        name: Look after this one in it alone.
    """
    back = []
    for path in sorted(folder.iterdir()):
        left = LEFT.fullmatch(path.name)
        if left and name not in (None, left["target"]):
            continue
        if left and left["kind"] == "old" and not (target := path.with_name(left["target"])).exists():
            os.replace(path, target)
            back.append(target)
        elif left and path.is_dir():
            shutil.rmtree(path)
        elif left:
            path.unlink()
    return back


def write_json(target: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with published(target) as draft:
        draft.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_parquet(frame: "pd.DataFrame", target: Path) -> None:
    """Write a table as parquet, atomically."""
    with published(target) as draft:
        frame.to_parquet(draft, index=False)


def require_writable(folder: Path, expected: str, where: str, hint: str) -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written to.

    Raises:
        ConfigError: It is one.
    """
    standing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    require(standing.is_dir() and os.access(standing, os.W_OK), expected, str(folder), where, hint)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
