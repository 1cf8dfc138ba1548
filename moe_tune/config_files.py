"""Configuration files before they are parsed: strict YAML, and the configuration that lies in a checkpoint."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from moe_tune.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice instead of silently taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"expected each key once but got {key!r} twice ({self.name}, line {key_node.start_mark.line + 1}). "
                    "Hint: delete one of them."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(file: Path) -> Any:
    """Return a YAML file's content; duplicate keys and broken syntax are refused.

    Args:
        file: The file.

    Raises:
        ConfigError: The file is not there, is no YAML, or names a key twice.
    """
    if not file.is_file():
        raise ConfigError(
            f"expected a configuration file but got {str(file)!r} (--config). "
            "Hint: configs/nano.yaml is one to start from."
        )
    try:
        with file.open(encoding="utf-8") as handle:
            return yaml.load(handle, _StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise ConfigError(f"expected YAML but got: {' '.join(str(fault).split())} ({file}).") from fault


def config_arguments(argv: list[str]) -> list[str]:
    """Return the values of every ``--config`` argument, in order."""
    values = []
    for place, word in enumerate(argv):
        if word in ("-c", "--config") and place + 1 < len(argv):
            values.append(argv[place + 1])
        elif word.startswith("--config="):
            values.append(word.partition("=")[2])
    return values


def checked_arguments(argv: list[str]) -> list[str]:
    """Return the arguments after reading every configuration file strictly.

    Args:
        argv: The verb and its arguments.

    Raises:
        ConfigError: A file is missing or is not a mapping with each key once.
    """
    for value in config_arguments(argv):
        if value.lstrip().startswith("{"):
            continue  # written out on the command line, as W&B agents do
        content = load_yaml(Path(value))
        if not isinstance(content, dict):
            raise ConfigError(f"expected a mapping of keys but got {type(content).__name__} ({value}).")
    return argv


def with_checkpoint_config(argv: list[str]) -> list[str]:
    """Put a checkpoint's own configuration in front, so that files and arguments win over it.

    Args:
        argv: The verb and its arguments; with ``--ckpt_path FOLDER`` the folder's ``config.yaml`` is read first.

    Raises:
        ModelError: The path is not an intact checkpoint.
    """
    path = next(
        (
            argv[place + 1] if word == "--ckpt_path" else word.partition("=")[2]
            for place, word in enumerate(argv)
            if (word == "--ckpt_path" and place + 1 < len(argv)) or word.startswith("--ckpt_path=")
        ),
        None,
    )
    if path is None or path == "null":
        return argv
    from moe_tune.runs.checkpoint import CONFIG, checked_folder

    folder = checked_folder(path)
    return [argv[0], "--config", str(folder / CONFIG), *argv[1:]]
