"""Configuration files before they are parsed: strict YAML, and the configuration that lies in a checkpoint."""

import re
from pathlib import Path
from typing import Any

import yaml

from moe_tune.base.errors import ConfigError
from moe_tune.base.strict_yaml import load_yaml, parse_yaml

BARE_FLAGS = ("--fresh", "--test_after_fit")
"""Switches that may stand without a value."""
LIGHTNING_WORDS = ("best", "last", "hpc", "registry")
"""Words Lightning resolves to a checkpoint by itself; here a checkpoint also brings its configuration."""
NOT_SET = "(not set)"

_RUN_NAME = re.compile(r"(?P<label>.+)-\w+-s\d+-\w+(?:-(?:validate|test|predict))?")


def _is_inline(value: str) -> bool:
    """Return whether a configuration is written out on the command line, as W&B agents do."""
    return value.lstrip().startswith("{")


def _content(value: str) -> dict[str, Any]:
    """Return what a ``--config`` value says, a file or written out."""
    content = parse_yaml(value, "--config") if _is_inline(value) else load_yaml(Path(value))
    if not isinstance(content, dict):
        raise ConfigError(
            f"expected a mapping of keys but got {type(content).__name__} ({value}). "
            "Hint: configs/nano.yaml is one to start from."
        )
    return content


def _options(argv: list[str], *names: str) -> list[tuple[str, str]]:
    """Return the options of these names and their values, in order."""
    pairs = []
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in names and equals:
            pairs.append((name, value))
        elif name in names and place + 1 < len(argv):
            pairs.append((name, argv[place + 1]))
    return pairs


def config_arguments(argv: list[str]) -> list[str]:
    """Return the values of every ``--config`` argument, in order: files, or mappings written out (``{...}``)."""
    return [value for _, value in _options(argv, "-c", "--config")]


def config_label(argv: list[str]) -> str:
    """Return the short name of the configuration: of the first file, or of the run it was written by.

    Args:
        argv: The verb and its arguments.

    Example:
        >>> config_label(["fit", "--config", "configs/nano.yaml"])
        'nano'
        >>> config_label(["fit", "--config", "runs/nano-BiasHead-s0-12fce04f/config.yaml"])
        'nano'
        >>> config_label(["fit", "--config", "{seed_everything: 1}"])
        'default'
    """
    file = next((Path(value) for value in config_arguments(argv) if not _is_inline(value)), None)
    if file is None:
        return "default"
    if file.name == "config.yaml":
        folder = file.absolute().parent
        run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        if name := _RUN_NAME.fullmatch(run.name):
            return name["label"]
    return file.stem


def checked_arguments(argv: list[str]) -> list[str]:
    """Return the arguments after reading every configuration strictly; a bare ``--fresh`` becomes ``--fresh=true``.

    Args:
        argv: The verb and its arguments.

    Raises:
        ConfigError: A configuration is missing or is not a mapping with each key once.

    Example:
        >>> checked_arguments(["fit", "--fresh", "--test_after_fit", "false"])
        ['fit', '--fresh=true', '--test_after_fit', 'false']
    """
    for value in config_arguments(argv):
        _content(value)
    following = [*argv[1:], "--"]
    return [
        f"{word}=true" if word in BARE_FLAGS and after.startswith("-") else word
        for word, after in zip(argv, following, strict=True)
    ]


def checkpoint_argument(argv: list[str]) -> str | None:
    """Return the checkpoint the arguments ask for: the last ``ckpt_path``, given as an argument or in a configuration.

    Args:
        argv: The verb and its arguments.

    Raises:
        ConfigError: It is one of Lightning's words for a checkpoint.
    """
    path: str | None = None
    for name, value in _options(argv, "-c", "--config", "--ckpt_path"):
        if name == "--ckpt_path":
            path = None if value == "null" else value
        elif "ckpt_path" in (content := _content(value)):
            path = None if content["ckpt_path"] is None else str(content["ckpt_path"])
    if path is not None and path.partition(":")[0] in LIGHTNING_WORDS:
        raise ConfigError(
            f"expected a checkpoint folder but got {path!r} (ckpt_path). "
            "Hint: give runs/<name>/checkpoints/last.ckpt; the same fit command again resumes by itself."
        )
    return path


def with_checkpoint_config(argv: list[str]) -> list[str]:
    """Put a checkpoint's own configuration in front, so that files and arguments win over it.

    Args:
        argv: The verb and its arguments; with a ``ckpt_path`` the folder's ``config.yaml`` is read first.

    Raises:
        ConfigError: The path is one of Lightning's words for a checkpoint.
        ModelError: The path is not an intact checkpoint.
    """
    path = checkpoint_argument(argv)
    if path is None:
        return argv
    from moe_tune.runs.checkpoint import CONFIG, checked_folder

    return [argv[0], "--config", str(checked_folder(path) / CONFIG), *argv[1:]]


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what two configurations differ in, a line per dotted key.

    Args:
        before: The one configuration, such as a checkpoint's.
        after: The other, such as what the command line made of it.

    Example:
        >>> differences({"model": {"scope": "answer"}}, {"model": {"scope": "all"}, "seed": 1})
        ['model.scope: answer -> all', 'seed: (not set) -> 1']
    """
    old, new = _texts(before), _texts(after)
    keys = [*old, *(key for key in new if key not in old)]
    pairs = [(key, old.get(key, NOT_SET), new.get(key, NOT_SET)) for key in keys]
    return [f"{key}: {was} -> {now}" for key, was, now in pairs if was != now]


def _texts(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every value as YAML text under its dotted key; lists stay whole."""
    texts: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            texts |= _texts(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
            texts[f"{prefix}{key}"] = text.removesuffix("...\n").strip()
    return texts
