"""YAML read strictly: a key given twice and broken syntax are refused, with the line."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from moe_tune.base.errors import ConfigError, require

DEEPEST = 40
"""Levels that no configuration has."""
TOO_DEEP = f"expected YAML of at most {DEEPEST} levels but got more"
INDENT = "keys and values, two spaces a level; tags such as !!python and tabs are not read."


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice instead of silently taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(
                    f"expected a word as key of the YAML but got {key!r} ({self.name}, line "
                    f"{key_node.start_mark.line + 1}). Hint: {INDENT}"
                )
            if key in seen:
                raise ConfigError(
                    f"expected each key once but got {key!r} twice ({self.name}, line {key_node.start_mark.line + 1}). "
                    "Hint: delete one of them."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(file: Path) -> Any:
    """Return a YAML file's content; duplicate keys and broken syntax are refused.

    Raises:
        ConfigError: The file is not there, is no YAML, or names a key twice.
    """
    hint = "configs/nano.yaml is one to start from."
    require(file.is_file(), "a configuration file", str(file), "--config", hint)
    try:
        return parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as fault:
        raise ConfigError(f"expected YAML but got: {fault} ({file}). Hint: save it as UTF-8 text.") from fault


def parse_yaml(text: str, where: str) -> Any:
    """Return what a text of YAML says, as ``load_yaml`` reads a file."""
    try:
        loader = _StrictLoader(text)
        loader.name = where
        content = loader.get_single_data()
        _refuse_depth(content, where)
        return content
    except yaml.YAMLError as fault:
        raise ConfigError(
            f"expected YAML but got: {' '.join(str(fault).split())[:400]} ({where}). Hint: {INDENT}"
        ) from fault
    except RecursionError as fault:
        raise ConfigError(f"{TOO_DEEP} ({where}). Hint: {INDENT}") from fault


def _refuse_depth(content: Any, where: str, depth: int = 0) -> None:
    """Refuse what is nested deeper than any configuration, such as an anchor that contains itself."""
    if depth > DEEPEST:
        raise ConfigError(f"{TOO_DEEP} ({where}). Hint: {INDENT}")
    for one in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        _refuse_depth(one, where, depth + 1)
