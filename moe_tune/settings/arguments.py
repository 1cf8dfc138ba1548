"""The words of a command before jsonargparse sees them: every configuration is read strictly, once."""

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from moe_tune.base.errors import require
from moe_tune.base.strict_yaml import load_yaml, parse_yaml
from moe_tune.settings.shipped import found_config, not_found

CONFIG_WORDS = ("-c", "--config")
BARE_FLAGS = ("--fresh", "--test_after_fit")
"""Switches that may stand without a value."""
LIGHTNING_WORDS = ("best", "last", "hpc", "registry")
"""Words Lightning resolves to a checkpoint by itself; here a checkpoint also brings its configuration."""


def is_inline(value: str) -> bool:
    """Return whether a configuration is written out on the command line, as W&B agents do."""
    return value.lstrip().startswith("{")


def config_arguments(argv: list[str]) -> list[str]:
    """Return the values of every ``--config`` argument, in order: files, or mappings written out (``{...}``)."""
    return [value for name, value, _ in options_of(argv) if name in CONFIG_WORDS and value is not None]


def read_arguments(argv: list[str]) -> tuple[list[str], str | None]:
    """Return a verb's arguments as jsonargparse takes them, and the checkpoint they ask for.

    A bare ``--fresh`` becomes ``--fresh=true``. A sweep agent hands its parameters over as
    ``--config '{"model.losses.z.weight": 0.1}'``, and jsonargparse understands such a key two levels deep only: it
    becomes an argument of its own, in order of name with ``class_path`` first, so that a class comes before its
    options.

    Raises:
        ConfigError: A configuration is missing, is not a mapping with each key once, or gives the training order a seed
            of its own, or the last ``ckpt_path``, given as an argument or in a configuration, is one of Lightning's
            words for a checkpoint.

    Example:
        >>> read_arguments(["fit", "--fresh", "--config", '{"model.head.tau": 0.5, "model.head": "TemperatureHead"}'])
        (['fit', '--fresh=true', '--model.head=TemperatureHead', '--model.head.tau=0.5'], None)
        >>> read_arguments(["test", "--ckpt_path", "a/last.ckpt", '--config={"seed_everything": 1}'])[1]
        'a/last.ckpt'
    """
    words: list[str] = argv[:1]
    checkpoint: str | None = None
    for name, value, written in options_of(argv[1:]):
        if name == "--ckpt_path":
            checkpoint = None if value == "null" else value
        if name not in CONFIG_WORDS or value is None:
            words += written
            continue
        content = content_of(value)
        _refuse_other_order(content, "--config" if is_inline(value) else value)
        if "ckpt_path" in content:
            checkpoint = None if content["ckpt_path"] is None else str(content["ckpt_path"])
        words += _spread_out(value) if is_inline(value) else written
    folder = checkpoint is None or checkpoint.partition(":")[0] not in LIGHTNING_WORDS
    hint = "give runs/<name>/checkpoints/last.ckpt; the same fit command again resumes by itself."
    require(folder, "a checkpoint folder", checkpoint, "ckpt_path", hint)
    return words, checkpoint


def as_json(values: dict[str, Any]) -> str:
    """Return parameters as an agent writes them for ``${args_json}``."""
    return json.dumps(values, sort_keys=True)


def options_of(words: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield name, value and words of each argument; only configurations and checkpoints have a value."""
    rest = deque(words)
    while rest:
        word = rest.popleft()
        name, equals, value = word.partition("=")
        if name in (*CONFIG_WORDS, "--ckpt_path") and (equals or rest):
            value = value if equals else rest.popleft()
            if name in CONFIG_WORDS and not is_inline(value):
                value = found_config(value)
            yield name, value, [f"{name}={value}"] if equals else [name, value]
        elif word in BARE_FLAGS and (not rest or rest[0].startswith("-")):
            yield word, None, [f"{word}=true"]
        else:
            yield word, None, [word]


def content_of(value: str) -> dict[str, Any]:
    """Return what a value of ``--config`` says."""
    if not is_inline(value) and not Path(value).is_file():
        raise not_found(value)
    content = parse_yaml(value, "--config") if is_inline(value) else load_yaml(Path(value))
    came, hint = type(content).__name__, "configs/nano.yaml is one to start from."
    require(isinstance(content, dict), "a mapping of keys", came, value, hint)
    return dict(content)


def _refuse_other_order(content: dict[str, Any], where: str) -> None:
    """Refuse a seed of the training order beside the seed of everything, which would win over it in silence."""
    data = content.get("data")
    own = data.get("seed") if isinstance(data, dict) else None
    hint = f"seed_everything: {own}, without data.seed."
    agree = own is None or own == content.get("seed_everything")
    require(agree, "the training order to follow seed_everything", own, f"data.seed, {where}", hint)


def _spread_out(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:  # JSON before YAML, which would read an agent's 1e-05 as text
        content = yaml.safe_load(text)
    plain = {key: value for key, value in content.items() if "." not in str(key)}
    dotted = sorted(set(content) - set(plain), key=lambda key: [(one != "class_path", one) for one in key.split(".")])
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}
    return [f"--config={as_json(plain)}"] * bool(plain) + [f"--{key}={texts[key]}" for key in dotted]
