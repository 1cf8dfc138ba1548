"""Experiments: every arm with every seed, compared with the baseline arm, results kept beside the claim."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import MoeTuneError
from moe_tune.base.published import published
from moe_tune.compare.comparison import Comparison, compare_arms
from moe_tune.compare.control import Control
from moe_tune.compare.report import write_comparison
from moe_tune.compare.runs import Run, load_run
from moe_tune.compare.terminal import render_terminal
from moe_tune.reports.console import PlainConsole
from moe_tune.runs.best_epoch import validation_summary
from moe_tune.runs.directory import environment, now
from moe_tune.studies.bench import ArmRun
from moe_tune.studies.controls import Controlled
from moe_tune.studies.experiment_file import EXPERIMENT, Experiment, load_experiment
from moe_tune.studies.fit_check import fault_of_fit, together
from moe_tune.studies.gate import GateState, closed, gate_state
from moe_tune.studies.measurement import refuse_mixed_measurements
from moe_tune.studies.other_models import FULL, OtherModel
from moe_tune.studies.tuning import Tune, tuned_arms

GATE_FILE = "gate.csv"
"""The questions that the baseline and the samples answered with different letters."""


def run_experiment(
    folder: Path,
    execute: Callable[[ArmRun], Path],
    *,
    plugins: dict[str, str] | None = None,
    full: bool = False,
    fresh: bool = False,
    controls: Callable[[Controlled], list[Control]] | None = None,
    tune: Tune | None = None,
) -> Comparison:
    """Run all arms of an experiment, compare them and write ``results/``; return the comparison of its own model.

    Every arm's configuration is read before one of them runs. An arm whose first run has nothing to train is run with
    the first seed only. While the experiment's gate is closed the baseline alone is reported; the other arms run, so
    that the same command publishes them once it is open.

    Args:
        folder: The experiment's folder.
        execute: What runs one arm with one seed and returns its run directory.
        plugins: sha256 of the plug-in files, by path.
        full: Whether the arms under ``full_arms`` run, too, and are compared in ``results/full``, those under ``tune``
            are tuned, and all of it is run on the other ``models`` as well.
        fresh: Whether finished runs run again.
        controls: What puts the arm under controls that did best on validation; ``None`` leaves it out.
        tune: What runs a sweep; asked if ``full``.

    Raises:
        ConfigError: ``experiment.yaml`` or an arm's configuration has a fault, the arms ask their questions in
            different ways, or settings of a tuned arm are not chosen yet.
        DataError: The arms' runs cannot be compared, or the gate is closed, after the baseline was reported.
        ModelError: Another model could not be made.
    """
    experiment = load_experiment(folder)
    arms = experiment.arms | (experiment.full_arms if full else {})
    others = {name: _on(experiment, name, model) for name, model in experiment.models.items()} if full else {}
    if experiment.tune and full:
        _refuse_faults(folder, [experiment, *others.values()], arms, plugins)
    arms = tuned_arms(experiment, arms, folder, tune=tune if full else None, plugins=plugins)
    _refuse_faults(folder, [experiment, *others.values()], arms, plugins)

    judge = _gatekeeper(experiment)
    states: list[GateState] = []

    def compared(one: Experiment, results: Path) -> Comparison:
        runs, state = _run_arms(one, arms, execute, fresh, judge)
        states.extend([state] if state else [])
        barred = state is not None and not state.open
        checked = [] if controls is None or barred else controls(_controlled(one, arms, runs))
        if full and one.full_arms:
            shown = {arm: runs[arm] for arm in (one.baseline, *one.full_arms)}
            _compare(one, folder, shown, results / FULL, [], state)
        return _compare(one, folder, {arm: runs[arm] for arm in one.arms}, results, checked, state)

    first = compared(experiment, folder / "results")
    if states and not states[0].open:
        raise closed(folder / "experiment.yaml", states[0])
    for name, other in others.items():
        experiment.models[name].made()
        compared(other, folder / "results" / name)
    return first


def _on(experiment: Experiment, name: str, model: OtherModel) -> Experiment:
    """Return the experiment on another model."""
    return replace(experiment, name=f"{experiment.name}-{name}", base=[*experiment.base, *model.overlays])


def _refuse_faults(
    folder: Path, experiments: Sequence[Experiment], arms: Mapping[str, list[str]], plugins: dict[str, str] | None
) -> None:
    """Refuse arms whose configuration has a fault, on any model, before one of them runs."""
    told: dict[tuple[str, str], MoeTuneError] = {}
    for one in experiments:
        refuse_mixed_measurements(one, arms)
        for arm, settings in arms.items():
            if fault := fault_of_fit(one.arguments(settings, one.seeds[0]), plugins):
                told.setdefault((arm, str(fault)), type(fault)(f"{folder / EXPERIMENT}: arm {arm}: {fault}"))
    if told:
        raise together(list(told.values()))


def _gatekeeper(experiment: Experiment) -> Callable[[Sequence[Run]], GateState] | None:
    """Return what judges the baseline's runs; samples are read now, so that a damaged file is told before arms run."""
    if (gate := experiment.gate) is None:
        return None
    log, split = gate.log(), next(iter(experiment.splits), "test")
    return lambda runs: min((gate_state(gate, run, split, log) for run in runs), key=lambda one: (one.open, one.equal))


def _run_arms(
    experiment: Experiment,
    arms: Mapping[str, list[str]],
    execute: Callable[[ArmRun], Path],
    fresh: bool,
    judge: Callable[[Sequence[Run]], GateState] | None,
) -> tuple[dict[str, list[Run]], GateState | None]:
    """Return the runs of every arm, one a seed, of an arm with nothing to train the first only; and the gate's state.

    The baseline runs first, so that a closed gate is told before hours are spent.
    """
    state, arms = None, {experiment.baseline: arms[experiment.baseline], **arms}
    console, seeds = _console(), ", ".join(map(str, experiment.seeds))
    console.print(f"{experiment.name}: {len(arms)} arms, seeds {seeds}. {experiment.claim}")
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for place, (arm, settings) in enumerate(arms.items(), start=1):
        for seed in experiment.seeds:
            console.print(f"arm {place}/{len(arms)}: {arm}, seed {seed}")
            argv = experiment.arguments(settings, seed)
            run = load_run(execute(ArmRun(arm, seed, argv, f"{experiment.name}-{arm}", fresh)))
            runs[arm].append(run)
            if run.manifest["trainable_parameters"] == 0:
                break
        if judge is not None and arm == experiment.baseline:
            state = judge(runs[arm])
            console.print(state.said)
    return runs, state


def _compare(
    experiment: Experiment,
    folder: Path,
    runs: Mapping[str, list[Run]],
    place: Path,
    checked: Sequence[Control],
    gate: GateState | None,
) -> Comparison:
    """Write the comparison with the baseline, and those with further arms; return the first.

    Behind a closed gate it is the baseline alone, and what an open one let through before is removed.
    """
    about: dict[str, Any] = {"experiment": experiment.name, "claim": experiment.claim, "date": now()}
    about["git_commit"] = git_commit(folder, "results")
    about |= environment()
    console, compared, lead = _console(), [], experiment.claim
    further = [arm for arm in experiment.also_against if arm in runs]
    if gate is not None:
        about["gate"], lead = gate.summary(), f"{experiment.claim} {gate.said}"
        _write_differing(gate, place / GATE_FILE)
        if not gate.open:
            runs, further = {experiment.baseline: runs[experiment.baseline]}, []
            for arm in experiment.also_against:
                shutil.rmtree(place / f"against_{arm}", ignore_errors=True)
    for arm in (experiment.baseline, *further):
        against = "" if arm == experiment.baseline else f"against {arm}"
        results = place / against.replace(" ", "_")
        comparison = compare_arms(runs, arm, experiment.splits, experiment.protocols)
        title = f"{experiment.name}, {against}" if against else experiment.name
        shown = () if against else checked
        write_comparison(comparison, results, title=title, lead=lead, provenance=about, controls=shown)
        if not against:
            console.print(render_terminal(comparison))
        console.print(f"{against or 'report'}: {results / 'report.html'}", soft_wrap=True)
        compared.append(comparison)
    return compared[0]


def _write_differing(gate: GateState, file: Path) -> None:
    """Write the questions with another letter than the samples'; without samples no file is left."""
    if gate.differing is None:
        file.unlink(missing_ok=True)
        return
    with published(file) as draft:
        gate.differing.to_csv(draft, index=False, lineterminator="\n")


def _console() -> PlainConsole:
    return PlainConsole(highlight=False)


def _controlled(experiment: Experiment, arms: Mapping[str, list[str]], runs: Mapping[str, list[Run]]) -> Controlled:
    """Return the arm that did best on validation among those that train, and what its controls need."""
    trained = [arm for arm in arms if runs[arm][0].manifest["trainable_parameters"] and arm != experiment.baseline]
    best = max(trained or [arm for arm in arms if arm != experiment.baseline], key=lambda arm: _validated(runs[arm]))
    _console().print(f"controls of {best}, the best arm on validation")
    primary = next(iter(experiment.splits), "test")
    argv = {run.seed: experiment.arguments(arms[best], run.seed) for run in runs[best]}
    return Controlled(experiment.name, best, runs[best], argv, primary)


def _validated(runs: Sequence[Run]) -> float:
    found = [validation_summary(run.path).get("validation/accuracy", 0.0) for run in runs]
    return sum(found) / len(found)
