"""Reading ``experiment.yaml`` strictly: a misspelt key, a missing overlay or a repeated seed is said at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, did_you_mean
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.studies.experiment_words import (
    ASSIGNMENT,
    are_texts,
    as_arguments,
    fault,
    found,
    require_short_name,
    settings_of,
)
from moe_tune.studies.gate import Gate, read_gate
from moe_tune.studies.other_models import OtherModel, read_models

EXPERIMENT = "experiment.yaml"
"""What an experiment's file is called."""
REQUIRED = ("name", "claim", "base", "seeds", "arms")
OPTIONAL = ("baseline", "also_against", "full_arms", "splits", "protocols", "tune", "models", "gate")


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
        also_against: Further arms that all others are compared with, each in a folder of its own, if they run.
        full_arms: Arms added by ``--full``.
        splits: Split name to label in the order of the tables, the primary first; empty for all test splits.
        protocols: Splits that are wordings of one test, three or more: a decision needs two thirds to agree in sign.
        tune: Sweep file by arm: settings that are chosen on validation, with one budget for all.
        tuned_as: Arm with a sweep, by an arm that takes what is chosen for it.
        models: Other models that ``--full`` runs everything on, by name.
        gate: What the baseline must show before gains are reported; ``None`` asks nothing.
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
    tune: dict[str, str] = field(default_factory=dict)
    tuned_as: dict[str, str] = field(default_factory=dict)
    models: dict[str, OtherModel] = field(default_factory=dict)
    gate: Gate | None = None

    def arguments(self, settings: list[str], seed: int) -> list[str]:
        """Return the arguments of one run: files and values of the base, those of the arm in order, the seed."""
        return [*as_arguments([*self.base, *settings]), f"--seed_everything={seed}"]


def load_experiment(folder: Path) -> Experiment:
    """Read and check a folder's ``experiment.yaml``.

    Paths of configurations are looked up in the current directory, then in the folder, then in the repository around
    it.

    Raises:
        ConfigError: The file is missing or not valid; the message names the key and the remedy.
    """
    return read_experiment(folder / EXPERIMENT)


def is_experiment(content: Any) -> bool:
    """Return whether a file's content is an experiment rather than a configuration.

    Example:
        >>> is_experiment({"claim": "none", "arms": {}}), is_experiment({"model": {}})
        (True, False)
    """
    return isinstance(content, dict) and not {"claim", "arms", "full_arms"}.isdisjoint(content)


def read_experiment(file: Path) -> Experiment:
    """Read and check an experiment's file, of whatever name; see ``load_experiment``.

    Raises:
        ConfigError: The file is missing or not valid; the message names the key and the remedy.
    """
    if not file.is_file():
        raise ConfigError(
            f"expected an experiment folder but got no {file.name} ({file.parent}). "
            f"Hint: give a folder that holds experiment.yaml, such as those under experiments/."
        )
    values = load_yaml(file)
    if not isinstance(values, dict):
        raise fault(file, "keys and values", type(values).__name__, f"start with {', '.join(REQUIRED)}.")
    for key in values:
        if key not in REQUIRED + OPTIONAL:
            raise fault(file, "known keys", repr(key), did_you_mean(str(key), REQUIRED + OPTIONAL))
    for key in REQUIRED:
        if not values.get(key):
            raise fault(file, f"a value for {key!r}", repr(values.get(key)), f"add `{key}:`.")
    for key in ("name", "claim"):
        if not isinstance(values[key], str):
            raise fault(file, f"text for {key!r}", repr(values[key]), "quote it.")
    require_short_name(file, "name", values["name"])
    base = [values["base"]] if isinstance(values["base"], str) else values["base"]
    if not are_texts(base):
        raise fault(file, "configuration files and key=value for 'base'", repr(base), "base: configs/nano.yaml")
    arms = _arms(file, "arms", values["arms"])
    full_arms = _arms(file, "full_arms", values.get("full_arms") or {})
    if twice := sorted(set(arms) & set(full_arms)):
        raise fault(file, "each arm once", f"{twice[0]!r} under arms and full_arms", "rename one.")
    if len(arms) < 2:
        raise fault(file, "a baseline and at least one more arm", f"{len(arms)} arm", "add an arm under `arms:`.")
    baseline = values.get("baseline", next(iter(arms)))
    if not isinstance(baseline, str) or baseline not in arms:
        raise fault(file, "an arm for 'baseline'", repr(baseline), did_you_mean(str(baseline), arms))
    against = values.get("also_against") or []
    if not isinstance(against, list):
        raise fault(file, "a list of arms for 'also_against'", repr(against), "also_against: [retuned]")
    against = list(dict.fromkeys(map(str, against)))
    for arm in against:
        if arm not in [*arms, *full_arms] or arm == baseline:
            hint = did_you_mean(arm, [*arms, *full_arms])
            raise fault(file, "arms beside the baseline for 'also_against'", repr(arm), hint)
    tune, tuned_as = _tune(file, values.get("tune") or {}, [*arms, *full_arms])
    splits = values.get("splits") or {}
    if not isinstance(splits, dict) or not are_texts([*splits, *splits.values()]):
        raise fault(file, "a label for each split under 'splits'", repr(splits), "splits: {test: quiz layout}")
    return Experiment(
        name=values["name"],
        claim=values["claim"].strip(),
        base=[one if ASSIGNMENT.match(one) else found(file, one) for one in base],
        seeds=_seeds(file, values["seeds"]),
        baseline=baseline,
        arms=arms,
        also_against=against,
        full_arms=full_arms,
        splits=splits,
        protocols=_protocols(file, values.get("protocols") or [], splits),
        tune=tune,
        tuned_as=tuned_as,
        models=read_models(file, values.get("models") or {}),
        gate=read_gate(file, values),
    )


def _seeds(file: Path, seeds: Any) -> list[int]:
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
        raise fault(file, "a list of whole numbers from 0 for 'seeds'", repr(seeds), "seeds: [1, 2, 3, 4, 5]")
    if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise fault(file, "distinct seeds", f"{repeated} more than once", "a repeated seed is no new evidence.")
    return seeds


def _arms(file: Path, key: str, arms: Any) -> dict[str, list[str]]:
    if not isinstance(arms, dict) or not all(isinstance(name, str) for name in arms):
        raise fault(file, f"arm names with their settings for {key!r}", repr(arms), "name: [overlay.yaml, key=value]")
    checked = {}
    for name, settings in arms.items():
        require_short_name(file, key, name)
        checked[name] = settings_of(file, f"{key}.{name}", settings)
    return checked


def _tune(file: Path, tune: Any, arms: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sweep files, and the arms that take what is chosen for another."""
    if not isinstance(tune, dict) or not are_texts(list(tune.values())):
        raise fault(file, "a sweep file for each arm under 'tune'", repr(tune), "retuned: learning_rate.yaml")
    for arm in tune:
        if arm not in arms:
            raise fault(file, "arms under 'tune'", repr(arm), did_you_mean(str(arm), arms))
    tuned_as = {arm: said for arm, said in tune.items() if said in arms}
    for arm, other in tuned_as.items():
        if tune.get(other, other) in arms:
            hint = "name its sweep file, or an arm that has one."
            raise fault(file, f"an arm with a sweep file for tune.{arm}", repr(other), hint)
    files = {arm: said for arm, said in tune.items() if arm not in tuned_as}
    return {arm: found(file, sweep, f"a sweep file for tune.{arm}") for arm, sweep in files.items()}, tuned_as


def _protocols(file: Path, protocols: Any, splits: dict[str, str]) -> list[str]:
    names: list[str] = protocols if are_texts(protocols) else [""]
    if names and len(set(names)) < max(3, len(names)):
        raise fault(file, "three or more different splits for 'protocols'", repr(protocols), "leave it out otherwise.")
    for name in names:
        if splits and name not in splits:
            raise fault(file, "splits for 'protocols'", repr(name), did_you_mean(name, splits))
    return names
