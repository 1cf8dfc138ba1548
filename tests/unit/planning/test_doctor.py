"""The doctor says what is missing instead of falling over it."""

import importlib.metadata

import pytest

import moe_tune
from moe_tune.base.errors import ConfigError
from moe_tune.cli.doctor import main
from moe_tune.cli.main import main as program
from moe_tune.planning import doctor


def with_versions(monkeypatch, **changes):
    stock = importlib.metadata.version

    def version(name):
        came = changes.get(name, stock(name) if name not in changes else None)
        if came is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return came

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize("name", doctor.PACKAGES)
def test_a_missing_package_is_a_problem(monkeypatch, capsys, name):
    with_versions(monkeypatch, **{name: None})
    assert main([], {}) == 2
    text = capsys.readouterr().out
    assert f"problem: expected {name} but it is not installed" in text
    assert "Hint: pip install" in text
    assert text.count("problem:") == 1


def test_a_malicious_version_is_a_problem_and_is_not_imported(monkeypatch, capsys):
    with_versions(monkeypatch, lightning="2.6.3")
    monkeypatch.setattr("moe_tune.cli.doctor.what_libraries_see", lambda: pytest.fail("imported it"))
    assert main([], {}) == 2
    assert "malicious" in capsys.readouterr().out


def test_a_denied_release_is_refused_by_every_other_verb(monkeypatch, capsys):
    with_versions(monkeypatch, lightning="2.6.2")
    assert program(["list", "heads"]) == 2
    assert "malicious" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="malicious"):
        moe_tune.trace  # noqa: B018 - looking it up imports


def test_what_would_change_bits_is_told(monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with_versions(monkeypatch, torch="2.14.1+cpu")
    assert main([], {}) == 0
    said = capsys.readouterr().out
    assert "other bits: OMP_NUM_THREADS is unset" in said
    assert "other bits: torch 2.14.1+cpu is not the tested 2.13.0" in said


def test_all_there_is_no_problem(capsys):
    assert main([], {}) == 0
    assert "nothing stands in the way" in capsys.readouterr().out
