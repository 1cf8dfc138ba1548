"""What is wrong with a configuration or a sweep file, found offline and without loading a model."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, MoeTuneError, did_you_mean
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.settings.logged import METRICS
from moe_tune.studies.experiment_file import is_experiment, read_experiment
from moe_tune.studies.fit_check import fault_of_fit
from moe_tune.studies.sweep_file import Sweep, fit_words, is_sweep
from moe_tune.studies.sweep_search import library, next_values, shall_stop, with_extremes

METHODS = ("grid", "random", "bayes")
TEXT_NUMBER = re.compile(r"([+-]?\d+)(\.\d*)?[eE]([+-])?(\d+)")
"""A number that YAML 1.1 reads as text."""
DISTRIBUTION_KEYS = (
    *("values", "value", "min", "max", "distribution", "mu", "sigma", "q", "a", "b", "probabilities", "parameters"),
)


def faults_of(file: Path, plugins: dict[str, str] | None = None) -> list[MoeTuneError]:
    """Return every mistake of a file, a line each; none if it is valid."""
    try:
        content = load_yaml(file)
    except ConfigError as fault:
        return [fault]
    if is_experiment(content):
        return _faults_of_experiment(file, plugins)
    if is_sweep(content):
        return [_placed(ConfigError(fault), file) for fault in faults_of_sweep(Sweep(file, content), plugins)]
    # An overlay says nothing of the questions, which have no default, nor which head its losses are for.
    data = content.get("data") if isinstance(content, dict) else None
    whole = isinstance(data, dict) and "source" in data
    questions = [] if whole else ["--data.source=NanoQuiz"]
    problem = fault_of_fit([*questions, "--config", str(file)], plugins, whole=whole)
    return [_placed(problem, file)] if problem else []


def _faults_of_experiment(file: Path, plugins: dict[str, str] | None) -> list[MoeTuneError]:
    try:
        experiment = read_experiment(file)
    except MoeTuneError as fault:
        return [fault]
    arms = experiment.arms | experiment.full_arms
    tried = {
        arm: fault_of_fit(experiment.arguments(given, experiment.seeds[0]), plugins) for arm, given in arms.items()
    }
    return [_placed(type(fault)(f"arm {arm}: {fault}"), file) for arm, fault in tried.items() if fault]


def kind_of(file: Path) -> str:
    """Return in words what a valid file is."""
    content = load_yaml(file)
    if is_experiment(content):
        return f"experiment of {len(content['arms'])} arms"
    if not is_sweep(content):
        return "configuration"
    return f"{content['method']} sweep over {', '.join(content['parameters'])}"


def faults_of_sweep(sweep: Sweep, plugins: dict[str, str] | None) -> list[str]:
    """Return every mistake of a sweep that has been read; none if it is valid."""
    config, parameters = sweep.config, sweep.config.get("parameters", {})
    found = [*_schema(config), *_judged_by(config)]
    if not isinstance(parameters, dict):
        found.append(_fault("a mapping", repr(parameters), "parameters", "model.head.tau: {values: [0.5, 1.0]}"))
        parameters = {}
    method = config["method"] if config.get("method") in METHODS else "random"  # one without a method is told above
    for name, spec in parameters.items():
        found += _parameter(str(name), spec, method)
    try:
        fit_words(config)
        plugins = sweep.with_plugins(plugins or {})
    except ConfigError as fault:
        found.append(str(fault))
    unproposed = [] if found else list(_proposal(sweep))
    if found or (unproposed and sweep.parameters):
        return found or unproposed
    return [*unproposed, *_parsed_points(sweep, plugins)]


def _schema(config: dict[str, Any]) -> Iterator[str]:
    """W&B's own schema, where its words say enough; what it puts badly or lets pass is said below."""
    library()
    from sweeps.config.schema import sweep_config_jsonschema, validator

    known = [*sweep_config_jsonschema["properties"], "run_cap"]
    cap = config.get("run_cap", 1)
    if type(cap) is not int or cap < 1:
        yield _fault("a whole number of at least 1", repr(cap), "run_cap", "run_cap: 20")
    band = config.get("early_terminate")
    unsaid = isinstance(band, dict) and "max_iter" in band and "s" not in band
    if unsaid:
        yield _fault("s beside max_iter", "none", "early_terminate.s", "s: 2, how often runs are looked at.")
    for key in config:
        if key not in known:
            yield _fault("a key of a sweep", repr(key), str(key), did_you_mean(str(key), known))
    for required in ("method", "parameters"):
        if required not in config:
            remedy = "method: grid, random or bayes; parameters: what is varied."
            yield _fault(repr(required), "none", required, remedy)
    for problem in validator.iter_errors(config):
        place = ".".join(str(part) for part in problem.absolute_path)
        if place and not place.startswith("parameters") and not (unsaid and place == "early_terminate"):
            yield _fault("what W&B's schema allows", problem.message, place, "docs.wandb.ai has the sweep file format.")


def _judged_by(config: dict[str, Any]) -> Iterator[str]:
    metric: Any = config.get("metric")
    name = metric.get("name") if isinstance(metric, dict) else None
    if metric is None and (config.get("method") == "bayes" or "early_terminate" in config):
        remedy = "metric: {name: validation/accuracy, goal: maximize}"
        yield _fault("a metric for bayes and early_terminate", "none", "metric", remedy)
    elif not isinstance(name, str):
        return  # what W&B's schema says of it is enough
    elif name.startswith("test"):
        remedy = "validation/accuracy; a choice by the test split cannot be tested on it."
        yield _fault("a metric of the validation split", repr(name), "metric.name", remedy)
    elif name not in METRICS and not name.startswith("train/loss_"):
        yield _fault("a metric that runs log", repr(name), "metric.name", did_you_mean(name, METRICS))
    elif "goal" not in metric:
        yield _fault("a goal", "none", "metric.goal", "goal: maximize, or minimize, which W&B takes if left.")


def _parameter(name: str, spec: Any, method: str) -> list[str]:
    place = f"parameters.{name}"
    if not isinstance(spec, dict):
        return [_fault("value, values, or min and max", repr(spec), place, f"{name}: {{value: {spec}}}")]
    if "parameters" in spec:
        inner = next(iter(spec["parameters"]), "key") if isinstance(spec["parameters"], dict) else "key"
        return [_fault("dotted keys", "a nested block", place, f"{name}.{inner}: as a parameter of its own.")]
    found = [
        _fault("a key of a parameter", repr(key), f"{place}.{key}", did_you_mean(str(key), DISTRIBUTION_KEYS))
        for key in spec
        if key not in DISTRIBUTION_KEYS
    ]
    for key, value in spec.items():
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                remedy = "leave it out: a key that is not given has its default; or the text 'null'."
                found.append(_fault("a value", "null", f"{place}.{key}", remedy))
            elif isinstance(one, str) and key != "distribution" and (text := TEXT_NUMBER.fullmatch(one)):
                remedy = f"{text[1]}{text[2] or '.0'}e{text[3] or '+'}{text[4]}: YAML needs point and sign."
                found.append(_fault("a number", f"the text {one!r}", f"{place}.{key}", remedy))
    if {type(spec.get("min")), type(spec.get("max"))} == {int, float}:
        remedy = "write both with a point, or both without."
        found.append(_fault("min and max of one type", f"{spec['min']!r} and {spec['max']!r}", place, remedy))
    return found or _distribution(name, spec, method)


def _distribution(name: str, spec: dict[str, Any], method: str) -> list[str]:
    proposed = {"method": method, "parameters": {name: dict(spec)}}
    try:
        problems = library().schema_violations_from_proposed_config(proposed)
    except (TypeError, ValueError) as fault:
        problems = [str(fault)]
    remedy = "values: [...], or min and max."
    return [_fault("a distribution W&B knows", one, f"parameters.{name}", remedy) for one in problems[:1]]


def _proposal(sweep: Sweep) -> Iterator[str]:
    """Ask the library for a first point, and whether it would be stopped: some faults it tells only then."""
    if not sweep.parameters:
        yield _fault("a parameter to vary", "none", "parameters", "model.head.tau: {values: [0.5, 1.0]}")
        return
    library()
    from sweeps.config.cfg import jsonschema

    method = sweep.config["method"]
    try:
        first = next_values(sweep, [], Path(), seed=0)
        if "early_terminate" in sweep.config:
            shall_stop(sweep, [], Path(), 0)
    except (TypeError, ValueError, jsonschema.ValidationError) as fault:
        problem = " ".join(str(fault).split())
        remedy = "a grid wants values: [...], random and bayes take min and max too."
        yield _fault(f"a {method} sweep W&B can run", problem, "method", remedy)
        return
    if first is None:
        yield _fault(f"a first point of the {method}", "none", "parameters", "values: [...] with at least one.")


def _parsed_points(sweep: Sweep, plugins: dict[str, str] | None) -> list[str]:
    """Parse points that hold every listed value and both ends of every range, as the arguments of a fit."""
    tried = {name: with_extremes(name, spec) for name, spec in sweep.parameters.items()}
    faults = []
    for row in list(zip_longest(*tried.values())) or [()]:
        pairs = zip(tried.items(), row, strict=True)
        values = {name: listed[-1] if value is None else value for (name, listed), value in pairs}
        faults.append(fault_of_fit(sweep.arguments(values), plugins, sweep=True))
    return list(dict.fromkeys(str(fault) for fault in faults if fault))


def _fault(expected: str, came: str, place: str, hint: str) -> str:
    return f"expected {expected} but got {came} ({place}). Hint: {hint}"


def _placed(fault: MoeTuneError, file: Path) -> MoeTuneError:
    return fault if str(file) in str(fault) else type(fault)(f"{file}: {fault}")
