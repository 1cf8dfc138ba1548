"""Reading ``experiment.yaml`` strictly: a misspelt key, a missing overlay or a repeated seed is said at once."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, did_you_mean
from moe_tune.base.strict_yaml import load_yaml

REQUIRED = ("name", "claim", "base", "seeds", "arms")
OPTIONAL = ("baseline", "also_against", "full_arms", "splits", "protocols")
ASSIGNMENT = re.compile(r"[A-Za-z_][\w.]*\+?=")
"""A ``key=value`` setting, as opposed to the path of an overlay."""
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One claim and the arms that test it.

    Attributes:
        name: Short name.
        claim: The claim, in a sentence.
        base: Configuration files and ``key=value`` texts every arm starts from.
        seeds: Distinct seeds; an arm with nothing to train uses the first only.
        baseline: The arm all others are compared with.
        arms: Overlay files and ``key=value`` texts by arm, in order.
        also_against: Further arms that all others are compared with, each in a folder of its own.
        full_arms: Arms added by ``--full``.
        splits: Split name to label in the order of the tables, the primary first; empty for all test splits.
        protocols: Splits that are wordings of one test, three or more: a decision needs two thirds to agree in sign.
    """

    name: str
    claim: str
    base: list[str]
    seeds: list[int]
    baseline: str
    arms: dict[str, list[str]]
    also_against: list[str] = field(default_factory=list)
    full_arms: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    protocols: list[str] = field(default_factory=list)


def load_experiment(folder: Path) -> Experiment:
    """Read and check a folder's ``experiment.yaml``.

    Paths of configurations are looked up in the current directory, then in the folder, then in the repository around
    it.

    Raises:
        ConfigError: The file is missing or not valid; the message names the key and the remedy.
    """
    file = folder / "experiment.yaml"
    if not file.is_file():
        raise ConfigError(
            f"expected an experiment folder but got no {file.name} ({file.parent}). "
            f"Hint: give a folder that holds experiment.yaml, such as those under experiments/."
        )
    values = load_yaml(file)
    if not isinstance(values, dict):
        raise _fault(file, "keys and values", type(values).__name__, f"start with {', '.join(REQUIRED)}.")
    for key in values:
        if key not in REQUIRED + OPTIONAL:
            raise _fault(file, "known keys", repr(key), did_you_mean(str(key), REQUIRED + OPTIONAL))
    for key in REQUIRED:
        if not values.get(key):
            raise _fault(file, f"a value for {key!r}", repr(values.get(key)), f"add `{key}:`.")
    for key in ("name", "claim"):
        if not isinstance(values[key], str):
            raise _fault(file, f"text for {key!r}", repr(values[key]), "quote it.")
    _short_name(file, "name", values["name"])
    base = [values["base"]] if isinstance(values["base"], str) else values["base"]
    if not _texts(base):
        raise _fault(file, "configuration files and key=value for 'base'", repr(base), "base: configs/nano.yaml")
    arms = _arms(file, "arms", values["arms"])
    full_arms = _arms(file, "full_arms", values.get("full_arms") or {})
    if twice := sorted(set(arms) & set(full_arms)):
        raise _fault(file, "each arm once", f"{twice[0]!r} under arms and full_arms", "rename one.")
    if len(arms) < 2:
        raise _fault(file, "a baseline and at least one more arm", f"{len(arms)} arm", "add an arm under `arms:`.")
    baseline = values.get("baseline", next(iter(arms)))
    if baseline not in arms:
        raise _fault(file, "an arm for 'baseline'", repr(baseline), did_you_mean(str(baseline), arms))
    against = values.get("also_against") or []
    if not isinstance(against, list):
        raise _fault(file, "a list of arms for 'also_against'", repr(against), "also_against: [retuned]")
    for arm in against:
        if arm not in arms or arm == baseline:
            raise _fault(file, "arms beside the baseline for 'also_against'", repr(arm), did_you_mean(str(arm), arms))
    splits = values.get("splits") or {}
    if not isinstance(splits, dict) or not _texts([*splits, *splits.values()]):
        raise _fault(file, "a label for each split under 'splits'", repr(splits), "splits: {test: quiz layout}")
    return Experiment(
        name=values["name"],
        claim=values["claim"].strip(),
        base=[one if ASSIGNMENT.match(one) else _find(file, one) for one in base],
        seeds=_seeds(file, values["seeds"]),
        baseline=baseline,
        arms=arms,
        also_against=against,
        full_arms=full_arms,
        splits=splits,
        protocols=_protocols(file, values.get("protocols") or [], splits),
    )


def _seeds(file: Path, seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
        raise _fault(file, "a list of whole numbers from 0 for 'seeds'", repr(seeds), "seeds: [1, 2, 3, 4, 5]")
    if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise _fault(file, "distinct seeds", f"{repeated} more than once", "a repeated seed is no new evidence.")
    return seeds


def _arms(file: Path, key: str, arms: Any) -> dict[str, list[str]]:
    if not isinstance(arms, dict) or not all(isinstance(name, str) for name in arms):
        raise _fault(file, f"arm names with their settings for {key!r}", repr(arms), "name: [overlay.yaml, key=value]")
    checked = {}
    for name, settings in arms.items():
        _short_name(file, key, name)
        listed = [] if settings is None else [settings] if isinstance(settings, str) else settings
        if not _texts(listed):
            raise _fault(file, f"a list of texts for {key}.{name}", repr(settings), "name: [overlay.yaml, key=value]")
        checked[name] = [_setting(file, f"{key}.{name}", one) for one in listed]
    return checked


def _short_name(file: Path, place: str, name: str) -> None:
    # It becomes part of a run directory's name.
    if not SHORT_NAME.fullmatch(name):
        raise _fault(file, f"letters, digits and . _ + - in {place}", repr(name), "such as balance_loss.")


def _setting(file: Path, place: str, setting: str) -> str:
    if ASSIGNMENT.match(setting):
        return setting
    if setting.endswith((".yaml", ".yml")):
        return _find(file, setting)
    raise _fault(file, f"an overlay file or key=value in {place}", repr(setting), "such as model.head.tau=0.5")


def _protocols(file: Path, protocols: Any, splits: dict[str, str]) -> list[str]:
    names: list[str] = protocols if _texts(protocols) else [""]
    if names and len(set(names)) < max(3, len(names)):
        raise _fault(file, "three or more different splits for 'protocols'", repr(protocols), "leave it out otherwise.")
    for name in names:
        if splits and name not in splits:
            raise _fault(file, "splits for 'protocols'", repr(name), did_you_mean(name, splits))
    return names


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _find(file: Path, path: str) -> str:
    if Path(path).is_file():
        return path
    places = [file.parent.resolve(), *file.parent.resolve().parents]
    root = next((i for i, place in enumerate(places) if (place / "pyproject.toml").is_file()), 0)
    near = []
    for place in places[: root + 1]:
        if (place / path).is_file():
            return str(place / path)
        near += [other.name for other in (place / path).parent.glob("*.y*ml")]
    raise _fault(file, "a configuration file", repr(path), did_you_mean(Path(path).name, near) if near else "check it.")


def _fault(file: Path, expected: str, came: str, hint: str) -> ConfigError:
    return ConfigError(f"expected {expected} but got {came} ({file}). Hint: {hint}")
