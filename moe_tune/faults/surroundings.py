"""What processes of fault cases find around them: no network, no login, one thread, their own caches and ledger."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = {
    "WANDB_MODE": "disabled",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # on a disk that is full Python leaves half a module, and every later import fails
}
FOLDERS = ("XDG_CACHE_HOME", "XDG_STATE_HOME")


@contextmanager
def alone() -> Iterator[None]:
    """Set the environment for processes that fault cases start, and set it back and remove its folders at the end."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="moe_tune-around-", ignore_cleanup_errors=True) as folder:
        os.environ.update(QUIET | {name: str(Path(folder, name.lower())) for name in FOLDERS})
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
