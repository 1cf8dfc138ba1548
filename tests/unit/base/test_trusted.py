"""Foreign classes are found wherever a class can be named, and are not imported."""

import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser, _common

from moe_tune.base.errors import ModelError
from moe_tune.base.trusted import (
    PLUGIN,
    foreign,
    foreign_classes,
    guarded_imports,
    is_allowed,
    is_trusting,
    refuse_foreign,
    trusting,
)
from moe_tune.heads.base import RouterHead

FOREIGN = "foreign_module.Thing"
NAMES = st.text("abcdefgh", min_size=1, max_size=6)


@given(
    st.recursive(
        st.just({"class_path": FOREIGN}), lambda inner: st.dictionaries(NAMES, inner, min_size=1), max_leaves=4
    )
)
def test_a_class_path_is_found_at_any_depth(content):
    with pytest.raises(ModelError, match=r"foreign_module\.Thing.*--trust"):
        refuse_foreign(content, "theirs")
    with trusting():
        refuse_foreign(content, "theirs")


@pytest.mark.parametrize(
    "path", ["moe_tune.heads.jitter.JitterHead", "torch.optim.AdamW", "peft.LoraConfig", "RetunedHead"]
)
def test_classes_of_the_allowed_packages_and_short_names_pass(path):
    assert is_allowed(path)
    assert not list(foreign_classes({"model": {"head": {"class_path": path}}}))


@pytest.mark.parametrize(
    "path", ["os.system", "torch.hub.load", "moe_tunes.A", "torch.optimum.A", "lightning.fabric.Fabric"]
)
def test_other_classes_do_not(path):
    assert list(foreign_classes({"model": {"head": {"class_path": path}}})) == [("model.head.class_path", path)]


def test_trust_ends_with_its_block():
    with trusting():
        assert is_trusting()
        with trusting(False):
            assert not is_trusting()
    assert not is_trusting()


def test_jsonargparse_imports_nothing_foreign_and_its_settings_come_back(tmp_path, monkeypatch):
    """Tells, too, when the names of its private settings change."""
    canary = tmp_path / "canary"
    (tmp_path / "foreign_module.py").write_text(f"open({str(canary)!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(_common.parsing_settings)
    assert {"import_path_verdicts", "import_paths_enforced"} <= before.keys()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--head", type=RouterHead)
    with guarded_imports(), pytest.raises(Exception, match="not allowed"):
        parser.parse_args(["--head", FOREIGN])
    assert not canary.exists()
    assert "foreign_module" not in sys.modules
    assert dict(_common.parsing_settings) == before


def test_a_class_of_a_loaded_plug_in_is_named_by_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, f"{PLUGIN}gain", types.ModuleType(f"{PLUGIN}gain"))
    assert "Hint: GainHead" in str(foreign("gain.GainHead", "mine.yaml"))
    assert "--trust" in str(foreign("loss.Gain", "mine.yaml"))
