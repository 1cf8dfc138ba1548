"""What a command takes of a checkpoint's configuration: the model, the data, the seed and plain trainer values."""

from pathlib import Path
from typing import Any

import yaml

from moe_tune.answer_path.kept import kept_caches

TAKEN = ("seed_everything", "model", "data")
OBJECTS = ("logger", "callbacks", "plugins", "profiler")
"""Trainer keys that make objects: a checkpoint's are left out, whoever wrote them."""


def taken(config: dict[str, Any]) -> dict[str, Any]:
    """Return what is taken of a configuration where it comes with a checkpoint.

    Loggers, callbacks, plug-ins of the trainer, optimiser and scheduler are not: a verb that evaluates needs none. Nor
    is a folder for prompt caches that holds none: a run of others does not say where files are written.

    Example:
        >>> taken({"name": "x", "trainer": {"max_epochs": 3, "callbacks": [], "logger": True}, "optimizer": {"lr": 1}})
        {'trainer': {'max_epochs': 3, 'logger': False}}
    """
    given = config.get("trainer")
    trainer = given if isinstance(given, dict) else {}
    plain = {key: value for key, value in trainer.items() if key not in OBJECTS and _is_plain(value)}
    found = {key: config[key] for key in TAKEN if key in config} | {"trainer": plain | {"logger": False}}
    place = (found.get("model") or {}).get("answer_path")
    if isinstance(place, dict) and place.get("folder") and not kept_caches(Path(place["folder"])):
        found["model"] = found["model"] | {"answer_path": place | {"folder": None}}
    return found


def inline(config: dict[str, Any]) -> str:
    """Return a configuration written out as one word of a command line."""
    return yaml.safe_dump(config, default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)
