"""Package, project file, citation and changelog speak of one version."""

import re
import tomllib
from pathlib import Path

import yaml

import moe_tune

ROOT = Path(__file__).parents[2]


def test_the_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert moe_tune.__version__ == project == cited
    newest = re.search(r"^## .*?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert newest[1] == project
