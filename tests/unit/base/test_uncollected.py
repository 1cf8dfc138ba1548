import gc
import importlib
import sys

import pytest

from moe_tune.base.uncollected import uncollected


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_the_collector_rests_within_and_is_as_before_after(tmp_path, monkeypatch):
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        importlib.import_module("no_such_module")
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_imported_is_passed_over_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "kept_by_its_module.py").write_text("class Held:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with uncollected():
        pass
    assert gc.get_freeze_count() == before
    with uncollected():
        held = importlib.import_module("kept_by_its_module").Held
    monkeypatch.delitem(sys.modules, "kept_by_its_module")
    assert gc.get_freeze_count() > before
    assert not any(one is held for one in gc.get_objects())
    later = type("Later", (), {})
    assert any(one is later for one in gc.get_objects())
