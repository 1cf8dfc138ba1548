"""One sweep at a time in a folder: a lock that ends with its process, however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_tune.base.errors import ConfigError

LOCK = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder; two processes would propose, run and write down the same points.

    Args:
        folder: The sweep's folder; made if it is not there.

    Raises:
        ConfigError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise ConfigError(
                f"expected a sweep that is not running but got one that another process runs ({folder}). "
                "Hint: wait for it, or stop it and give --workers 2 for runs at a time."
            ) from fault
        yield
