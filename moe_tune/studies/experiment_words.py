"""The words of ``experiment.yaml``: names, settings, files; and the form its faults are told in."""

import re
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, did_you_mean

ASSIGNMENT = re.compile(r"[A-Za-z_][\w.]*\+?=")
"""A ``key=value`` setting, as opposed to the path of an overlay."""
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


def fault(file: Path, expected: str, came: str, hint: str) -> ConfigError:
    """Return a fault of the file."""
    return ConfigError(f"expected {expected} but got {came} ({file}). Hint: {hint}")


def are_texts(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def are_plain(value: Any) -> bool:
    """Return whether a value is what JSON can say, under keys that are texts; YAML also has dates."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and are_plain(list(value.values()))
    if isinstance(value, list):
        return all(are_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)


def require_short_name(file: Path, place: str, name: str) -> None:
    """Refuse a name that cannot become part of a run directory's name.

    Raises:
        ConfigError: It has another character.
    """
    if not SHORT_NAME.fullmatch(name):
        raise fault(file, f"letters, digits and . _ + - in {place}", repr(name), "such as balance_loss.")


def settings_of(file: Path, place: str, settings: Any) -> list[str]:
    """Return overlays, as paths that are there, and ``key=value`` texts; one alone needs no list.

    Raises:
        ConfigError: It is no list of texts, or an overlay is missing.
    """
    listed = [] if settings is None else [settings] if isinstance(settings, str) else settings
    if not are_texts(listed):
        raise fault(file, f"a list of texts for {place}", repr(settings), "name: [overlay.yaml, key=value]")
    return [_setting(file, place, one) for one in listed]


def _setting(file: Path, place: str, setting: str) -> str:
    if ASSIGNMENT.match(setting):
        return setting
    if setting.endswith((".yaml", ".yml")):
        return found(file, setting)
    raise fault(file, f"an overlay file or key=value in {place}", repr(setting), "such as model.head.tau=0.5")


def found(file: Path, path: str, expected: str = "a configuration file") -> str:
    """Return a file's path from here: in the current directory, beside the experiment, or in its repository.

    Raises:
        ConfigError: It is nowhere.
    """
    if Path(path).is_file():
        return path
    places = [file.parent.resolve(), *file.parent.resolve().parents]
    root = next((i for i, place in enumerate(places) if (place / "pyproject.toml").is_file()), 0)
    near, like = [], "*.py" if path.endswith(".py") else "*.y*ml"
    for place in places[: root + 1]:
        if (place / path).is_file():
            return str(place / path)
        near += [other.name for other in (place / path).parent.glob(like)]
    raise fault(file, expected, repr(path), did_you_mean(Path(path).name, near) if near else "check it.")


def as_arguments(settings: list[str]) -> list[str]:
    """Return settings as arguments of a command.

    Example:
        >>> as_arguments(["configs/nano.yaml", "model.head.tau=0.5"])
        ['--config', 'configs/nano.yaml', '--model.head.tau=0.5']
    """
    return [word for one in settings for word in ([f"--{one}"] if ASSIGNMENT.match(one) else ["--config", one])]
