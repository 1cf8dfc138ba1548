"""Adding a head is adding one file: the README's own, taken from its text, trains and is listed with no other edit."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def readme_head():
    """Return the Python of the README's section on a head in one file."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### A head in one file")[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)


def moe_tune(*arguments):
    """Run the program in a process of its own, so that the class is unknown to every other test."""
    command = [sys.executable, "-m", "moe_tune", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_readmes_head_is_found_by_its_name_and_runs(tmp_path):
    code = readme_head()
    assert len(code.splitlines()) <= 30
    plugin = tmp_path / "clipped.py"
    plugin.write_text(code, encoding="utf-8")
    listed = moe_tune("--plugins", str(plugin), "list", "heads", "--format", "json")
    (entry,) = [one for one in json.loads(listed.stdout) if one["name"] == "ClippedHead"]
    assert entry["summary"].startswith("Clips the logits")
    tiny = [
        "--config",
        "configs/nano.yaml",
        "--config",
        "configs/debug/tiny.yaml",
        "--config",
        "configs/logger/none.yaml",
    ]
    head = ["--model.head", "ClippedHead", "--model.head.limit", "2"]
    done = moe_tune("--plugins", str(plugin), "fit", *tiny, *head, "--runs_root", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("*ClippedHead*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["head"] == "ClippedHead"
    assert list(manifest["plugins"]) == [str(plugin)]


def test_the_readmes_head_keeps_the_laws_of_the_conformance_suite(tmp_path):
    """Put beside the shipped heads it is discovered; here the suite is pointed at the file instead."""
    (tmp_path / "clipped.py").write_text(readme_head(), encoding="utf-8")
    (tmp_path / "held.py").write_text(
        "import importlib.util, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "name = 'moe_tune.heads.clipped'\n"
        "spec = importlib.util.spec_from_file_location(name, sys.argv[1] + '/clipped.py')\n"
        "sys.modules[name] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "import pytest\n"
        "held = ['-k', 'ClippedHead', '-p', 'no:cacheprovider', '-p', 'no:xdist']\n"
        "sys.exit(pytest.main([sys.argv[2] + '/conformance/test_heads.py', *held]))\n"
    )
    command = [sys.executable, str(tmp_path / "held.py"), str(tmp_path), str(ROOT / "tests")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    # Each law in one family and mode, as families take turns.
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= 25
