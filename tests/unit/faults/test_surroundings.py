import os
import subprocess
import sys

from moe_tune.faults.surroundings import alone


def test_a_case_leaves_no_module_behind_and_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    before = dict(os.environ)
    with alone():
        asked = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
        assert subprocess.run(asked, capture_output=True, text=True).stdout == "True\n"
        cache = os.environ["XDG_CACHE_HOME"]
    assert dict(os.environ) == before
    assert not os.path.exists(cache)
