"""Which classes a command's configurations name, where, and with what options; nothing is imported."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.strict_yaml import load_yaml, parse_yaml
from moe_tune.settings.arguments import CONFIG_WORDS, config_arguments, is_inline
from moe_tune.settings.listing import known_classes


@dataclass(frozen=True, slots=True)
class NamedClass:
    """A class in a configuration.

    Attributes:
        key: The dotted key at which it stands.
        path: Its class path or short name.
        options: Its ``init_args``.
    """

    key: str
    path: str
    options: dict[str, Any]


def named_classes(content: Any, key: str = "") -> Iterator[NamedClass]:
    """Yield the classes that a configuration names with ``class_path``, outer ones first.

    Example:
        >>> [one.key for one in named_classes({"model": {"losses": {"z": {"class_path": "ZLoss"}}}})]
        ['model.losses.z']
    """
    if isinstance(content, list):
        for number, value in enumerate(content):
            yield from named_classes(value, f"{key}[{number}]")
    if not isinstance(content, dict):
        return
    if isinstance(path := content.get("class_path"), str):
        options = content.get("init_args")
        yield NamedClass(key, path, options if isinstance(options, dict) else {})
    for name, value in content.items():
        inner = key if name == "init_args" else f"{key}.{name}" if key else str(name)
        yield from named_classes(value, inner)


def slot_of(option: str, argv: Sequence[str], value: str | None = None, *, missing: bool = False) -> str | None:
    """Return the dotted key of an option of a class in a command's words, ``None`` where no class has it.

    Args:
        option: The option's name alone.
        argv: The words.
        value: What it was given, as text; ``None`` for any.
        missing: Whether it is one that a class needs and was not given.
    """
    for word in reversed(argv):
        key = word.lstrip("-").partition("=")[0]
        if word.startswith("--") and key.endswith(f".{option}") and not missing:
            return key
    for content in _contents(argv):
        for one in named_classes(content):
            if missing and option not in one.options and _needs(one.path, option):
                return f"{one.key}.{option}"
            if not missing and option in one.options and value in (None, str(one.options[option])):
                return f"{one.key}.init_args.{option}"
    return None


def class_at(key: str, argv: Sequence[str], option: str) -> str | None:
    """Return the class that the last argument or configuration puts at a key.

    Args:
        key: The dotted key.
        argv: The command's words.
        option: An option of it, by which a list's entry is told from the others.
    """
    found: str | None = None
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == f"--{key}":
            found = value if equals else after
    for content in _contents(argv):
        for one in named_classes(content):
            if one.key == key or (one.key.startswith(f"{key}[") and option in one.options):
                return found or one.path
        plain: Any = content
        for part in key.split("."):
            plain = plain.get(part) if isinstance(plain, dict) else None
        if isinstance(plain, str):
            return found or plain
    return found


def parameters(path: str | None) -> list[str]:
    """Return the parameters of a class whose module has been imported, none of any other."""
    module, _, name = (path or "").rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return [one for one in inspect.signature(kind).parameters if one != "self"] if isinstance(kind, type) else []


def module_classes(module: str) -> list[str]:
    """Return the names of the classes of a module that has been imported."""
    there = vars(sys.modules[module]) if module in sys.modules else {}
    return [name for name, value in there.items() if isinstance(value, type)]


def _needs(path: str, option: str) -> bool:
    module, _, name = path.rpartition(".")
    loaded = getattr(sys.modules.get(module), name, None)
    kind = next((one for one in known_classes() if one.__name__ == name), loaded)
    own = inspect.signature(kind).parameters.get(option) if isinstance(kind, type) else None
    return own is not None and own.default is own.empty


def _contents(argv: Sequence[str]) -> Iterator[Any]:
    """Yield what the configurations of a command hold, the last first."""
    words = list(argv)
    if not any(word.partition("=")[0] in CONFIG_WORDS for word in words):
        return
    for value in reversed(config_arguments(words)):
        try:
            yield parse_yaml(value, "--config") if is_inline(value) else load_yaml(Path(value))
        except ConfigError:  # it is told by itself
            continue
