"""``tuned.yaml``: what sweeps have chosen on validation for the arms of an experiment; committed beside it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from moe_tune.base.errors import did_you_mean
from moe_tune.base.published import published
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.runs.directory import to_yaml
from moe_tune.studies.experiment_words import are_plain, fault

FILE = "tuned.yaml"
KEYS = {"settings": dict, "validation_accuracy": float, "points": int, "failed": int, "origin": str, "date": str}
LEAD = (
    "# Chosen on validation by `experiment --full`, by the sweeps under tune: of experiment.yaml; every run reads it.\n"
)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a sweep has chosen for an arm.

    Attributes:
        settings: Value by dotted key.
        validation_accuracy: What the best point came to on validation.
        points: How many points the sweep has tried.
        failed: How many of them failed.
        origin: 8 hex digits of the sweep, the base and the arm's settings.
        date: When, in UTC.
    """

    settings: dict[str, Any]
    validation_accuracy: float
    points: int
    failed: int
    origin: str
    date: str

    def as_settings(self) -> list[str]:
        """Return the settings as ``key=value``, a class before its options.

        Example:
            >>> Tuned({"model.head.tau": 0.5, "model.head": "TemperatureHead"}, 0.5, 4, 0, "", "").as_settings()
            ['model.head=TemperatureHead', 'model.head.tau=0.5']
        """
        keys = sorted(self.settings, key=lambda key: [(one != "class_path", one) for one in key.split(".")])
        values = {key: self.settings[key] for key in keys}
        return [f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in values.items()]


def load_tuned(folder: Path) -> dict[str, Tuned]:
    """Return the committed choices by arm, none without the file.

    Raises:
        ConfigError: The file is not of the form ``write_tuned`` gives it.
    """
    file = folder / FILE
    content = load_yaml(file) if file.is_file() else {}
    hint = f"delete {FILE}, and make it again by `experiment --full`."
    if not isinstance(content, dict):
        raise fault(file, "arms with what was chosen for them", repr(content), hint)
    chosen = {}
    for arm, entry in content.items():
        if not isinstance(entry, dict):
            raise fault(file, f"{', '.join(KEYS)} of {arm}", repr(entry), hint)
        for key in entry:
            if key not in KEYS:
                raise fault(file, f"known keys of {arm}", repr(key), did_you_mean(str(key), KEYS))
        for key, kind in KEYS.items():
            if type(entry.get(key)) is not kind or not are_plain(entry[key]):
                raise fault(file, f"{key} of {arm}", repr(entry.get(key)), hint)
        chosen[str(arm)] = Tuned(**entry)
    return chosen


def write_tuned(folder: Path, chosen: Mapping[str, Tuned]) -> None:
    """Write the choices; one that is as it was keeps its date."""
    before = load_tuned(folder)
    entries = {
        arm: asdict(before[arm] if arm in before and replace(one, date=before[arm].date) == before[arm] else one)
        for arm, one in chosen.items()
    }
    with published(folder / FILE) as draft:
        draft.write_text(LEAD + to_yaml(entries), encoding="utf-8")
