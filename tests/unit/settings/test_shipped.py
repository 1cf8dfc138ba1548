"""Configurations by name: the working folder's own come before the program's copies."""

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.settings.arguments import read_arguments
from moe_tune.settings.config_files import config_label
from moe_tune.settings.shipped import found_config, shipped_folder


@pytest.mark.parametrize("name", ["nano", "nano.yaml", "configs/nano.yaml"])
def test_every_spelling_finds_the_copy_and_the_run_is_named_alike(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found_config(name) == str(shipped_folder() / "nano.yaml")
    assert read_arguments(["fit", f"--config={name}"])[0] == ["fit", f"--config={shipped_folder() / 'nano.yaml'}"]
    assert config_label(["fit", "--config", name]) == "nano"


def test_own_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "head" / "temperature.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("model: {}\n")
    assert found_config("head/temperature") == "configs/head/temperature.yaml"
    (tmp_path / "nano").write_text("model: {}\n")
    assert found_config("nano") == "nano"


def test_a_wrong_name_gets_a_guess():
    with pytest.raises(ConfigError, match="did you mean head/temperature"):
        read_arguments(["fit", "--config", "heads/temprature"])


def test_a_file_beside_the_command_is_guessed_with_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("model: {}\n")
    with pytest.raises(ConfigError, match=r"did you mean own\.yaml"):
        read_arguments(["fit", "--config", "own"])
