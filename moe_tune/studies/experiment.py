"""Experiments: every arm with every seed, compared with the baseline arm, results kept beside the claim."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import ConfigError
from moe_tune.compare.comparison import Comparison, compare_arms
from moe_tune.compare.control import Control
from moe_tune.compare.report import write_comparison
from moe_tune.compare.runs import Run, load_run
from moe_tune.compare.terminal import render_terminal
from moe_tune.runs.best_epoch import validation_summary
from moe_tune.runs.directory import environment, now
from moe_tune.studies.bench import ArmRun
from moe_tune.studies.controls import Controlled
from moe_tune.studies.experiment_file import Experiment, load_experiment
from moe_tune.studies.fit_check import fault_of_fit
from moe_tune.studies.measurement import refuse_mixed_measurements
from moe_tune.studies.other_models import FULL, OtherModel
from moe_tune.studies.tuning import Tune, tuned_arms


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
    the first seed only.

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
        DataError: The arms' runs cannot be compared.
        ModelError: Another model could not be made.
    """
    experiment = load_experiment(folder)
    arms = experiment.arms | (experiment.full_arms if full else {})
    others = {name: _on(experiment, name, model) for name, model in experiment.models.items()} if full else {}
    if experiment.tune and full:
        _refuse_faults(folder, [experiment, *others.values()], arms, plugins)
    arms = tuned_arms(experiment, arms, folder, tune=tune if full else None, plugins=plugins)
    _refuse_faults(folder, [experiment, *others.values()], arms, plugins)

    def compared(one: Experiment, results: Path) -> Comparison:
        runs = _run_arms(one, arms, execute, fresh)
        checked = [] if controls is None else controls(_controlled(one, arms, runs))
        if full and one.full_arms:
            shown = {arm: runs[arm] for arm in (one.baseline, *one.full_arms)}
            _compare(one, folder, shown, results / FULL, [])
        return _compare(one, folder, {arm: runs[arm] for arm in one.arms}, results, checked)

    first = compared(experiment, folder / "results")
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
    told: dict[tuple[str, str], str] = {}
    for one in experiments:
        refuse_mixed_measurements(one, arms)
        for arm, settings in arms.items():
            if fault := fault_of_fit(one.arguments(settings, one.seeds[0]), plugins):
                told.setdefault((arm, fault), f"{folder / 'experiment.yaml'}: arm {arm}: {fault}")
    if told:
        raise ConfigError("\n".join(told.values()))


def _run_arms(
    experiment: Experiment, arms: Mapping[str, list[str]], execute: Callable[[ArmRun], Path], fresh: bool
) -> dict[str, list[Run]]:
    """Return the runs of every arm, one a seed, of an arm with nothing to train the first only."""
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
    return runs


def _compare(
    experiment: Experiment, folder: Path, runs: Mapping[str, list[Run]], place: Path, checked: Sequence[Control]
) -> Comparison:
    """Write the comparison with the baseline, and those with further arms; return the first."""
    about = {"experiment": experiment.name, "claim": experiment.claim, "date": now(), "git_commit": git_commit(folder)}
    about |= environment()
    console, compared = _console(), []
    for arm in (experiment.baseline, *(one for one in experiment.also_against if one in runs)):
        against = "" if arm == experiment.baseline else f"against {arm}"
        results = place / against.replace(" ", "_")
        comparison = compare_arms(runs, arm, experiment.splits, experiment.protocols)
        title = f"{experiment.name}, {against}" if against else experiment.name
        shown = () if against else checked
        write_comparison(comparison, results, title=title, lead=experiment.claim, provenance=about, controls=shown)
        if not against:
            console.print(render_terminal(comparison))
        console.print(f"{against or 'report'}: {results / 'report.html'}", soft_wrap=True)
        compared.append(comparison)
    return compared[0]


def _console() -> Console:
    return Console(markup=False, highlight=False)


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
