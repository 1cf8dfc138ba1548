"""Dotted keys of a configuration written out on the command line, as the arguments they stand for."""

import json
from typing import Any

import yaml


def spread_out(argv: list[str]) -> list[str]:
    """Return the arguments with the dotted keys of written-out configurations as arguments of their own.

    A sweep agent hands its parameters over as ``--config '{"model.losses.z.weight": 0.1}'``, and jsonargparse
    understands such a key two levels deep only. Keys are taken in order of name, ``class_path`` first, so that a class
    comes before its options.

    Args:
        argv: The verb and its arguments; every configuration has been read strictly before.

    Example:
        >>> spread_out(["fit", "--config", '{"model.head.tau": 0.5, "model.head": "TemperatureHead"}'])
        ['fit', '--model.head=TemperatureHead', '--model.head.tau=0.5']
        >>> spread_out(["fit", "--config", "configs/nano.yaml", '--config={"seed_everything": 1}'])
        ['fit', '--config', 'configs/nano.yaml', '--config={"seed_everything": 1}']
    """
    words = []
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name not in ("-c", "--config"):
            words.append(word)
            continue
        value = value if equals else next(rest, "")
        if value.lstrip().startswith("{"):
            words += _as_arguments(_read(value))
        else:
            words += [word] if equals else [word, value]
    return words


def as_json(values: dict[str, Any]) -> str:
    """Return parameters as an agent writes them for ``${args_json}``.

    Args:
        values: Value by dotted key.
    """
    return json.dumps(values, sort_keys=True)


def _as_arguments(content: dict[str, Any]) -> list[str]:
    plain = {key: value for key, value in content.items() if "." not in str(key)}
    dotted = sorted(set(content) - set(plain), key=_class_first)
    words = [f"--config={as_json(plain)}"] if plain else []
    return words + [f"--{key}={_text(content[key])}" for key in dotted]


def _class_first(key: str) -> list[tuple[bool, str]]:
    return [(part != "class_path", part) for part in key.split(".")]


def _read(text: str) -> dict[str, Any]:
    """Return what is written out; JSON before YAML, which would read an agent's ``1e-05`` as text."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = yaml.safe_load(text)
    return dict(content)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
