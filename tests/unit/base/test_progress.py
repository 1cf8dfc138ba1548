"""A bar is on the terminal alone: not in a file, and not in what another program copies from standard error."""

import os
import pty
import sys

from moe_tune.base.progress import with_bar


def test_a_file_gets_no_bar(capfd):
    assert list(with_bar(range(3), "steps")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_the_bar_past_what_is_copied_from_standard_error(monkeypatch):
    reading, writing = pty.openpty()
    copied = []
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(terminal, "write", copied.append)
        assert list(with_bar(range(3), "steps")) == [0, 1, 2]
        assert b"steps" in os.read(reading, 65536)
    os.close(reading)
    assert copied == []
