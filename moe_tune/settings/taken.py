"""What a command takes of a checkpoint's configuration: the model, the data, the seed and plain trainer values."""

from typing import Any

import yaml

TAKEN = ("seed_everything", "model", "data")
OBJECTS = ("logger", "callbacks", "plugins", "profiler")
"""Trainer keys that make objects: a checkpoint's are left out, whoever wrote them."""


def taken(config: dict[str, Any]) -> dict[str, Any]:
    """Return what is taken of a configuration where it comes with a checkpoint.

    Loggers, callbacks, plug-ins of the trainer, optimiser and scheduler are not: a verb that evaluates needs none.

    Example:
        >>> taken({"name": "x", "trainer": {"max_epochs": 3, "callbacks": [], "logger": True}, "optimizer": {"lr": 1}})
        {'trainer': {'max_epochs': 3, 'logger': False}}
    """
    trainer = config.get("trainer") or {}
    plain = {key: value for key, value in trainer.items() if key not in OBJECTS and _is_plain(value)}
    return {key: config[key] for key in TAKEN if key in config} | {"trainer": plain | {"logger": False}}


def inline(config: dict[str, Any]) -> str:
    """Return a configuration written out as one word of a command line."""
    return yaml.safe_dump(config, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)
