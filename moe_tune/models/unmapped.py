"""Reading weights without mapping their files, so that none is in a process's memory twice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import modeling_utils

ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"
"""What makes transformers read a tensor when it is needed, and not as many ahead as fit."""


@contextmanager
def unmapped_files() -> Iterator[None]:
    """Let transformers read safetensors files piece by piece while this is open.

    It maps all files of a model until the last one is read, and copies experts that lie apart on disk into one tensor:
    while that goes on, the pages that were read count as the process's memory beside the copies. Of OLMoE-1B-7B that
    was 20.6 GiB for 12.9 GiB of weights.
    """
    opened, before = modeling_utils.safe_open, os.environ.get(ONE_BY_ONE)

    def unmapped(*words: Any, **options: Any) -> Any:
        return opened(*words, **{**options, "backend": "pread"})

    modeling_utils.safe_open = unmapped
    os.environ[ONE_BY_ONE] = "1"
    try:
        yield
    finally:
        modeling_utils.safe_open = opened
        os.environ.pop(ONE_BY_ONE)
        if before is not None:
            os.environ[ONE_BY_ONE] = before
