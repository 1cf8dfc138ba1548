"""A user's own Python file: what is none is told in one message that names the line."""

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.base.plugins import load_plugin_file

FAULTY = {
    "notes.txt": ("x = 1", "a Python file but got"),
    "grammar.py": ("def (:", "SyntaxError.*grammar.py"),
    "gone.py": (
        "x = 1\nimport no_such_module",
        r"ModuleNotFoundError: No .* \(.*gone.py:2\)",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_plug_in_that_cannot_be_imported_is_told(name, tmp_path):
    content, words = FAULTY[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=words):
        load_plugin_file(str(tmp_path / name))
