from types import SimpleNamespace

import pytest

from moe_tune.base import memory


@pytest.mark.parametrize(("platform", "held"), [("linux", 3 * 2**30), ("darwin", 3 * 2**20)])
def test_peak_memory_is_in_bytes_whatever_the_system_counts_in(monkeypatch, platform, held):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    assert memory.peak_memory() == held
