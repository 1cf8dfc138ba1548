"""How the arms of an experiment ask their questions, read from its settings before anything runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.strict_yaml import load_yaml, parse_yaml
from moe_tune.studies.experiment_file import Experiment
from moe_tune.studies.experiment_words import ASSIGNMENT

DEFAULTS = {"protocol": "lm_eval", "few_shot": 0}


def refuse_mixed_measurements(experiment: Experiment, arms: Mapping[str, Sequence[str]]) -> None:
    """Refuse arms that ask their questions in another way than the baseline: that is another measurement.

    Raises:
        ConfigError: An arm has another protocol or another number of worked examples.
    """
    wanted = _measurement([*experiment.base, *arms[experiment.baseline]])
    for name, settings in arms.items():
        for key, came in _measurement([*experiment.base, *settings]).items():
            if came != wanted[key]:
                raise ConfigError(
                    f"expected every arm with the baseline's data.{key} {wanted[key]!r} but got {came!r} in {name!r} "
                    f"(experiment.yaml of {experiment.name}): that is another measurement. "
                    "Hint: make it an experiment of its own, or a data.test_protocols that every arm has."
                )


def _measurement(settings: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(DEFAULTS)
    for setting in settings:
        data = content_of(setting).get("data")
        if isinstance(data, dict):
            found |= {key: data[key] for key in DEFAULTS if key in data}
    return found


def content_of(setting: str) -> dict[str, Any]:
    """Return what an overlay file or a ``key=value`` text says, as nested keys."""
    if not ASSIGNMENT.match(setting):
        content = load_yaml(Path(setting))
    else:
        key, _, value = setting.partition("=")
        content = parse_yaml(value, setting)
        for part in reversed(key.split(".")):
            content = {part: content}
    return content if isinstance(content, dict) else {}
