"""Which runs are seeds of one arm: those whose configurations agree in everything but the seed."""

import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from moe_tune.compare.runs import Run

NOT_IDENTITY = re.compile(
    r"seed_everything|name|runs_root|test_after_fit|data\.(seed|num_workers)"
    r"|trainer\.(logger|enable_\w+|accelerator|default_root_dir|devices|num_nodes)(\..*)?"
    r"|model\.answer_path\.folder|model\.base\.experts_implementation"
)
"""Keys of a configuration in which seeds of one arm may differ; the number of processes stands for the devices."""
ONLOOKERS = re.compile(r"(ProgressBar|Summary|Monitor)$")
"""Callbacks that show and change nothing."""
OWNERS = {
    "model": "moe_tune.tuner.router_tuner.RouterTuner",
    "model.base": "moe_tune.models.base_model.BaseModel",
    "model.answer_path": "moe_tune.answer_path.settings.AnswerPath",
    "data": "moe_tune.data.module.QuizDataModule",
    "trainer": "lightning.pytorch.Trainer",
}
"""Whose arguments the parts of a configuration are that name no class."""
SECTIONS = ("trainer", "model", "data")


def group_arms(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs into arms by name, each with its seeds in ascending order.

    Runs of one name are seeds of one arm only if their configurations agree and their seeds differ; otherwise each is
    an arm of its own, named by its directory.
    """
    named: dict[str, list[Run]] = {}
    for run in runs:
        named.setdefault(run.name, []).append(run)
    arms: dict[str, list[Run]] = {}
    for name, members in named.items():
        distinct = len({run.seed for run in members}) == len(members)
        if distinct and all(differing(members[0], one) == [] for one in members[1:]):
            arms[name] = sorted(members, key=lambda run: run.seed)
        else:
            arms |= {run.path.resolve().name: [run] for run in members}
    return arms


def differing(one: Run, other: Run) -> list[str]:
    """Return the keys in which two runs differ so that they are no seeds of one arm; a missing key is its default."""
    mine, theirs = _identity(one, one.config), _identity(other, other.config)
    if mine.keys() != theirs.keys():  # written by different versions, or really different
        mine, theirs = (_identity(run, _completed({key: {} for key in SECTIONS} | run.config)) for run in (one, other))
    keys = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
    return sorted(keys + _other_weights(one, other))


def flat_identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration in which seeds of one arm may not differ, by dotted key."""
    trainer = config.get("trainer") or {}
    callbacks = [one for one in trainer.get("callbacks") or [] if not ONLOOKERS.search(str(one.get("class_path")))]
    values = dict(_flat(config | {"trainer": {**trainer, "callbacks": callbacks}}))
    return {key: value for key, value in values.items() if not NOT_IDENTITY.fullmatch(key)}


def _identity(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    return flat_identity(config) | {
        "processes": run.manifest.get("processes") or _processes(config.get("trainer") or {}),
        "trainable_parameters": run.manifest["trainable_parameters"],
    }


def _other_weights(one: Run, other: Run) -> list[str]:
    hashes = {run.manifest["base"].get("frozen_sha256") for run in (one, other)} - {None}
    return ["model.base.frozen_sha256"] if len(hashes) > 1 else []


def _processes(trainer: dict[str, Any]) -> int | str:
    devices = trainer.get("devices", "auto")
    count = len(devices) if isinstance(devices, list) else devices
    return count * int(trainer.get("num_nodes") or 1) if isinstance(count, int) else str(count)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a configuration's values by dotted key; objects in lists are numbered."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        value = {str(index): one for index, one in enumerate(value)}
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _flat(one, f"{key}.{name}" if key else str(name))
    else:
        yield key, value or None if isinstance(value, dict | list) else value


def _completed(value: Any, key: str = "") -> Any:
    """Return a configuration with the arguments it leaves out at their defaults."""
    if isinstance(value, list):
        return [_completed(one) for one in value]
    if not isinstance(value, dict):
        return value
    given = {**defaults(OWNERS[key]), **value} if key in OWNERS else value
    if isinstance(path := given.get("class_path"), str):
        given = {**given, "init_args": {**defaults(path), **(given.get("init_args") or {})}}
    return {name: _completed(one, f"{key}.{name}" if key else name) for name, one in given.items()}


def defaults(path: str) -> dict[str, Any]:
    """Return the defaults of a class's arguments as a configuration spells them; none of a class that is not here."""
    try:
        parameters = inspect.signature(pkgutil.resolve_name(path)).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}  # a plug-in that is not here: what its configuration says is all there is
    return {one.name: _plain(one.default) for one in parameters if one.default is not inspect.Parameter.empty}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
