"""Discovery: a plug-in folder imports its siblings, so that adding a class is adding one file."""

import argparse
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.trusted import PLUGIN

T = TypeVar("T")

TRUST = "--trust"
"""Lets a configuration of others name any class: see ``moe_tune.base.trusted``."""


def import_siblings(package: str, path: list[str], skip: Collection[str] = ()) -> None:
    """Import every module of a plug-in folder."""
    for module in pkgutil.iter_modules(path):
        if module.name not in skip:
            importlib.import_module(f"{package}.{module.name}")


def concrete_subclasses(base: type[T]) -> dict[str, type[T]]:
    """Return every imported, instantiable public subclass of a plug-in base by its short name."""
    found: dict[str, type[T]] = {}
    queue = [base]
    while queue:
        for child in queue.pop().__subclasses__():
            queue.append(child)
            if not inspect.isabstract(child) and not child.__name__.startswith("_"):
                found[child.__name__] = child
    return dict(sorted(found.items()))


def load_plugin_file(path: str) -> ModuleType:
    """Import a user's own Python file, so that its classes are found by their short names.

    Raises:
        ConfigError: The file does not exist, is none of Python's, or raises.
    """
    file = Path(path)
    require(file.is_file() and file.suffix == ".py", "a Python file", path, "--plugins", "give the path of a .py file.")
    name = f"{PLUGIN}{file.stem}"  # it stands in configurations, which an edit of the file must not break
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        del sys.modules[name]
        lines = [one.lineno for one in traceback.extract_tb(fault.__traceback__) if one.filename == spec.origin]
        where = f"{path}:{lines[-1]}" if lines else path
        raise ConfigError(
            f"expected a plug-in that can be imported but got {type(fault).__name__}: {fault} ({where}). "
            f"Hint: python {path} shows the same."
        ) from fault
    return module


def load_plugin_files(paths: Iterable[str]) -> dict[str, str]:
    """Import a user's own Python files, and return the sha256 of each by its path."""
    hashes = {}
    for path in paths:
        load_plugin_file(path)
        hashes[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return hashes


def without_trust(words: list[str]) -> tuple[list[str], bool]:
    """Return a command's words without its ``--trust``, wherever it stands, and whether it was there.

    Example:
        >>> without_trust(["--trust", "test", "RUN"])
        (['test', 'RUN'], True)
    """
    return [word for word in words if word != TRUST], TRUST in words


def without_plugins(words: list[str]) -> tuple[list[str], list[str]]:
    """Return a command's words without its ``--plugins``, wherever they stand, and the files that these name.

    Raises:
        ConfigError: One of them names no file.

    Example:
        >>> without_plugins(["--plugins", "mine.py", "fit", "--plugins=yours.py", "--name", "x"])
        (['fit', '--name', 'x'], ['mine.py', 'yours.py'])
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plugins", action="append", default=[])
    try:
        given, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as fault:
        raise ConfigError("expected a Python file but got none (--plugins). Hint: --plugins FILE.py.") from fault
    return rest, given.plugins
