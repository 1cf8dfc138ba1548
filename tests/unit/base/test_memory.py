"""What a process has freed goes back to the system, where that can be asked for."""

import ctypes
import sys

import numpy as np
import pytest

from moe_tune.base.memory import give_back, peak_memory


def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="what is held now is told by /proc")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_blocks_freed_between_kept_ones_are_given_back():
    blocks = [np.ones(100_000, np.uint8) for _ in range(2_000)]  # below the size that is mapped of its own
    kept = blocks[::20]
    del blocks
    before = held()
    give_back()
    assert before - held() > 100e6
    assert sum(map(len, kept)) == 100 * 100_000


def test_another_c_library_is_no_fault(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
    assert peak_memory() > 1e6
