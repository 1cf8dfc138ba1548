"""Memory, disk space and file descriptors that run out, and folders that cannot be used: known by any library's error.

PyTorch, safetensors, pyarrow and worker processes say in words of their own what the system told them, so both the
error's number and its text are looked at.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_tune.base.errors import ConfigError, MoeTuneError, ResourceError
from moe_tune.base.memory import available_memory

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HANDLES = {errno.EMFILE, errno.ENFILE}
MEMORY = {errno.ENOMEM}
UNUSABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ESTALE,
}  # fmt: skip
NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)
NO_DISK = re.compile("No space left on device|Disk quota exceeded|File too large|PytorchStreamWriter failed writing")
NO_HANDLES = re.compile(r"Too many open files")
NO_MEMORY = re.compile(r"\bout of memory\b|can(no|')t allocate memory|Unable to allocate", re.IGNORECASE)
WORKER = re.compile(rf"DataLoader worker .* exit code {ResourceError.exit_code}\b")
"""What torch says of one that has ended for want of a resource."""
SPOKEN = 300
"""Characters of a library's own message that are shown."""


def out_of_resources(fault: BaseException) -> bool:
    """Return whether a fault says that memory, disk space or file descriptors ran out.

    Example:
        >>> out_of_resources(MemoryError())
        True
        >>> out_of_resources(RuntimeError("I/O error: No space left on device (os error 28)"))
        True
        >>> out_of_resources(ValueError("a shape does not fit"))
        False
    """
    return out_of_disk(fault) or out_of_memory(fault) or _out_of_handles(fault)


def out_of_disk(fault: BaseException) -> bool:
    """Return whether a fault, or one that it came of, says that a disk is full or a file may grow no further."""
    return any(error_number(one) in DISK or NO_DISK.search(_text(one)) for one in _chain(fault))


def out_of_memory(fault: BaseException) -> bool:
    """Return whether a fault, or one that it came of, says that memory ran out, the host's or an accelerator's."""
    return any(
        isinstance(one, MemoryError)
        or type(one).__name__ == "OutOfMemoryError"  # PyTorch's, which is not imported for it
        or error_number(one) in MEMORY
        or NO_MEMORY.search(_text(one))
        for one in _chain(fault)
    )


def error_number(fault: BaseException) -> int | None:
    """Return the system's number of an error, also where a library has put it into words."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return fault.errno
    found = NUMBER.search(_text(fault))
    return int(found[1] or found[2]) if found else None


def told_fault(fault: BaseException) -> MoeTuneError | None:
    """Return what a user is told of a fault that lies in the machine or a folder; ``None`` of any other."""
    if told := next((one for one in _chain(fault) if isinstance(one, ResourceError)), None):
        return told  # a file that is closed after a first fault has the same one once more
    if any(WORKER.search(_text(one)) for one in _chain(fault)):
        return ResourceError(
            "expected room to hand a batch over but a worker found none, as it says above (data.num_workers). "
            "Hint: --data.num_workers 0, or more shared memory, such as docker run --shm-size 2g."
        )
    notes = "".join(f", {note}" for note in getattr(fault, "__notes__", ()))
    if out_of_disk(fault):
        return full_disk(_place(fault), fault)
    if out_of_memory(fault):
        free = available_memory()
        have = "" if free is None else f"; {free:,} bytes of the host's memory are free"
        return ResourceError(
            f"expected enough memory but got: {_text(fault)[:SPOKEN] or type(fault).__name__}{notes}{have}. "
            "Hint: a smaller --data.batch_size, or another machine."
        )
    if _out_of_handles(fault):
        where = _place(fault)
        return ResourceError(
            f"expected to open a further file but got: {_text(fault)[:SPOKEN]}{f' ({where})' if where else ''}. "
            "Hint: ulimit -n NUMBER allows more, or a smaller --data.num_workers."
        )
    return unusable_place(fault)


def full_disk(path: Path | None, fault: BaseException, written: int = 0) -> ResourceError:
    """Return what is told of a full disk.

    Args:
        path: What was being written; ``None`` where nobody knows.
        fault: What came of it.
        written: Bytes of it that were written before, 0 where that is not known.
    """
    if path is None:
        return ResourceError(
            f"expected enough disk space but got: {_text(fault)[:SPOKEN]}. Hint: free some, or another --runs_root."
        )
    larger = error_number(fault) == errno.EFBIG
    hint = "`ulimit -f unlimited`, or" if larger else "free some, or"
    hint += " another folder, such as --runs_root FOLDER."
    needed = f" for more than {written:,} bytes" if written else ""
    return ResourceError(
        f"expected disk space{needed} but {free_bytes(path):,} bytes are free ({path}): {_text(fault)[:SPOKEN]}. "
        f"Hint: {hint}"
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name what was being written in a fault of the disk, as few libraries do.

    Args:
        path: A file or folder.

    Raises:
        ResourceError: The disk is full, whichever library wrote.
        ConfigError: The place cannot be written to.
    """
    try:
        yield
    except MoeTuneError:
        raise
    except Exception as fault:
        if out_of_disk(fault):
            raise full_disk(path, fault) from fault
        if told := unusable_place(fault, path):
            raise told from fault
        raise


def unusable_place(fault: BaseException, path: Path | None = None) -> ConfigError | None:
    """Return what is told of a folder or file that cannot be used as it lies; ``None`` of any other fault.

    Args:
        fault: What came of it.
        path: What was being written, if the fault does not say it.
    """
    place = _place(fault) or path
    number = error_number(fault)
    vanished = number == errno.ENOENT and place is not None and not place.parent.exists()
    if place is None or not (number in UNUSABLE or vanished):
        return None
    words = os.strerror(number or errno.ENOENT)
    return ConfigError(
        f"expected a place that can be written to but got: {words}{', its folder is gone' if vanished else ''} "
        f"({place}). Hint: another folder, or see who may write there and whether a file is in its place."
    )


def free_bytes(path: Path) -> int:
    """Return the bytes that are free where a path is or would be."""
    standing = next((one for one in [path, *path.absolute().parents] if one.exists()), Path("/"))
    return shutil.disk_usage(standing).free


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())


def _out_of_handles(fault: BaseException) -> bool:
    return any(error_number(one) in HANDLES or NO_HANDLES.search(_text(one)) for one in _chain(fault))


def _place(fault: BaseException) -> Path | None:
    names = (one.filename for one in _chain(fault) if isinstance(one, OSError))
    return next((Path(os.fsdecode(name)) for name in names if isinstance(name, str | bytes)), None)


def _chain(fault: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = fault
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__


def _text(fault: BaseException) -> str:
    return " ".join(str(fault).split())
