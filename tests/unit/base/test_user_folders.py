"""Where the user's caches and state lie."""

from pathlib import Path

import pytest

from moe_tune.base.user_folders import user_folder


@pytest.mark.parametrize(
    ("value", "folder"), [("/a", "/a/moe_tune"), ("~/b", "~/b/moe_tune"), ("b", "~/c/moe_tune"), ("", "~/c/moe_tune")]
)
def test_only_a_whole_path_counts(value, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_folder("XDG_CACHE_HOME", "~/c") == Path(folder).expanduser()
