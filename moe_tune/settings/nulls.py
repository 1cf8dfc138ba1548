"""``null`` where a key takes none: the parser lets it pass, as an argument that was not given."""

import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from moe_tune.base.errors import ConfigError


def refuse_nulls(parser: ArgumentParser, settings: Namespace) -> None:
    """Refuse ``null`` at a key whose type has no place for it.

    Args:
        parser: What parsed the arguments.
        settings: The parsed arguments.

    Raises:
        ConfigError: There is one.
    """
    for key, default in [*_of_keys(parser, settings), *_of_classes(settings)]:
        hint = f"leave it out{'' if default is None else f': the default is {default!r}'}."
        raise ConfigError(f"expected a value but got null ({key}). Hint: {hint}")


def _of_keys(parser: ArgumentParser, settings: Namespace) -> Iterator[tuple[str, Any]]:
    for action in parser._actions:
        wanted = getattr(action, "_typehint", None)
        unset = action.default is not None and action.dest in settings and settings[action.dest] is None
        if wanted is not None and unset and not _takes_none(wanted):
            shown = action.default if isinstance(action.default, str | int | float | bool) else None
            yield action.dest, shown


def _of_classes(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of classes that were loaded."""
    if isinstance(settings, list):
        for number, one in enumerate(settings):
            yield from _of_classes(one, f"{key}[{number}]")
    items = vars(settings) if isinstance(settings, Namespace) else settings if isinstance(settings, dict) else {}
    options = items.get("init_args")
    module, _, name = str(items.get("class_path", "")).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if isinstance(kind, type) and isinstance(options, Namespace):
        known = inspect.signature(kind).parameters
        try:
            wanted = get_type_hints(vars(kind).get("__init__", kind))
        except (NameError, TypeError):  # a class of others, whose words are not to be resolved
            wanted = {}
        for option, value in vars(options).items():
            if value is None and option in known and option in wanted and not _takes_none(wanted[option]):
                default = known[option].default
                if default is not None:
                    yield f"{key}.init_args.{option}", None if default is inspect.Parameter.empty else default
    for inner, value in items.items():
        yield from _of_classes(value, f"{key}.{inner}" if key else str(inner))


def _takes_none(wanted: Any) -> bool:
    if get_origin(wanted) in (Union, types.UnionType):
        return any(map(_takes_none, get_args(wanted)))
    return wanted in (None, type(None), Any, object)
