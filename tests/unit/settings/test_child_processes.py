"""The processes that Lightning starts for a run get its command, plug-in files included."""

import hashlib
import sys
from pathlib import Path

import pytest

from moe_tune.cli.main import main
from moe_tune.settings import running

NANO = Path(__file__).parents[3] / "configs" / "nano.yaml"


class Stopped(Exception):
    """Ends a run before it has a trainer."""


def test_child_processes_are_started_with_the_command_and_its_plug_in_files(tmp_path, monkeypatch):
    def stop(*_):
        raise Stopped

    file, asked = tmp_path / "own_head.py", []
    file.write_text("from moe_tune.heads.identity import IdentityHead\n")
    plugins = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    words = ["--config", str(NANO), "--runs_root", str(tmp_path / "runs")]
    monkeypatch.setattr(running, "run_trainer", stop)
    monkeypatch.setattr(sys, "argv", ["moe_tune"])
    with pytest.raises(Stopped):
        running.run(["fit", *words], plugins)
    assert f"--plugins={file}" in sys.argv
    monkeypatch.setattr("moe_tune.cli.main.command_of", lambda verb: lambda *given: asked.append((verb, *given)) or 0)
    main(sys.argv[1:])
    assert asked == [("fit", words, plugins)]
