"""What a configuration is called, and what two of them differ in."""

import re
from pathlib import Path
from typing import Any

import yaml

from moe_tune.settings.arguments import config_arguments, is_inline

NOT_SET = "(not set)"
_ENDS = r"-s\d+-\w+(?:-from-\w+|-(?:validate|test|predict))?"
_RUN_NAMES = (
    re.compile(rf"(?P<label>.+)-[A-Z]\w*(?:-[a-z][\w.]*)*{_ENDS}"),
    re.compile(rf"(?P<label>.+)-\w+{_ENDS}"),  # a head of the user's whose name begins otherwise
)


def config_label(argv: list[str]) -> str:
    """Return the short name of the configuration: of the first file, or of the run it was written by.

    Example:
        >>> config_label(["fit", "--config", "configs/nano.yaml"])
        'nano'
        >>> config_label(["fit", "--config", "runs/nano-BiasHead-s0-12fce04f/config.yaml"])
        'nano'
        >>> config_label(["fit", "--config", "runs/my-quiz-BiasHead-epochs1-lr.1-s0-12fce04f/config.yaml"])
        'my-quiz'
        >>> config_label(["fit", "--config", "{seed_everything: 1}"])
        'default'
    """
    file = next((Path(value) for value in config_arguments(argv) if not is_inline(value)), None)
    if file is None:
        return "default"
    if file.name == "config.yaml":
        folder = file.absolute().parent
        run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        if found := [name for form in _RUN_NAMES if (name := form.fullmatch(run.name))]:
            return found[0]["label"]
    return file.stem


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what two configurations differ in, a line per dotted key.

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
