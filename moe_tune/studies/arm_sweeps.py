"""The sweeps of tuned arms: all by validation accuracy, all of one budget, none with the test split open."""

import json
from math import prod
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.runs.directory import identity
from moe_tune.studies.experiment_file import Experiment
from moe_tune.studies.experiment_words import ASSIGNMENT, are_plain
from moe_tune.studies.measurement import content_of
from moe_tune.studies.sweep_file import NOT_IDENTITY, Sweep, load_sweep

METRIC = "validation/accuracy"


def arm_sweeps(experiment: Experiment) -> dict[str, Sweep]:
    """Return the sweep of each tuned arm: the file's, about the experiment's base and the arm's settings.

    Raises:
        ConfigError: A file is no sweep by validation accuracy with a number of points, or the numbers differ.
    """
    sweeps, arms = {}, experiment.arms | experiment.full_arms
    for arm, file in experiment.tune.items():
        said = load_sweep(Path(file)).config
        words = experiment.arguments(arms[arm], experiment.seeds[0])
        command = ["python", "-m", "moe_tune", "fit", *words, "--test_after_fit=false", "--config", "${args_json}"]
        sweeps[arm] = Sweep(Path(file), said | {"command": command})
    budgets = {arm: budget(sweep) for arm, sweep in sweeps.items()}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{count} of {arm}" for arm, count in budgets.items())
        raise ConfigError(
            f"expected the same number of points for every tuned arm but got {told} (tune in experiment.yaml of "
            f"{experiment.name}): an arm that is tried more often looks better. Hint: the same run_cap in each sweep."
        )
    stops = {arm: sweep.config.get("early_terminate") for arm, sweep in sweeps.items()}
    if any(stop != next(iter(stops.values())) for stop in stops.values()):
        raise ConfigError(
            f"expected one early_terminate for every tuned arm but got {stops} (tune in experiment.yaml of "
            f"{experiment.name}): it shortens runs. Hint: the same in each sweep, or in none."
        )
    return sweeps


def origin(experiment: Experiment, arm: str, sweep: Sweep) -> str:
    """Return 8 hex digits, the same on every machine, of all that a choice for an arm is made from but plug-ins."""
    arms = experiment.arms | experiment.full_arms
    said = {key: value for key, value in sweep.config.items() if key not in (*NOT_IDENTITY, "command")}
    settings = [content_of(one) for one in [*experiment.base, *arms[arm]]]
    return identity({"sweep": said, "settings": settings, "seed": experiment.seeds[0]})


def budget(sweep: Sweep) -> int:
    """Return how many points a sweep tries.

    Raises:
        ConfigError: It does not say, or is judged by something else than validation accuracy, or varies the seed.
    """
    parameters: Any = sweep.config.get("parameters")
    if not isinstance(parameters, dict) or not all(isinstance(spec, dict) for spec in parameters.values()):
        raise _fault(sweep, "parameters with their values", repr(parameters), "optimizer.lr: {values: [0.003, 0.01]}")
    if not isinstance(sweep.config.get("metric", {}), dict) or sweep.metric != METRIC or not sweep.maximised:
        came = repr(sweep.config.get("metric"))
        raise _fault(sweep, f"a choice by {METRIC}", came, f"metric: {{name: {METRIC}, goal: maximize}}")
    for key in parameters:
        if key == "seed_everything" or not ASSIGNMENT.fullmatch(f"{key}="):
            raise _fault(sweep, "settings to choose", repr(key), "dotted keys; the seeds are the experiment's.")
    cap = sweep.config.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise _fault(sweep, "a whole number of at least 1 as run_cap", repr(cap), "run_cap: 12")
    if sweep.config.get("method") != "grid":
        if cap is None:
            raise _fault(sweep, "a number of points", "none", "run_cap: 12; only a grid ends by itself.")
        return int(cap)
    listed = [spec["values"] if "values" in spec else [spec.get("value")] for spec in parameters.values()]
    if any(not isinstance(values, list) or values in ([], [None]) or not are_plain(values) for values in listed):
        raise _fault(sweep, "values for every parameter of a grid", repr(parameters), "values: [...]")
    points = prod(len({json.dumps(value) for value in values}) for values in listed)
    return points if cap is None else min(points, cap)


def _fault(sweep: Sweep, expected: str, came: str, hint: str) -> ConfigError:
    return ConfigError(f"expected {expected} but got {came} ({sweep.file}, under tune). Hint: {hint}")
