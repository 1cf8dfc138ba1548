"""The doctor says what is missing instead of falling over it."""

import importlib.metadata

import pytest

from moe_tune.cli.doctor import main
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


def test_all_there_is_no_problem(capsys):
    assert main([], {}) == 0
    assert "nothing stands in the way" in capsys.readouterr().out
