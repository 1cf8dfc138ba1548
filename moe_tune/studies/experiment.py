"""Experiments: every arm with every seed, compared with the baseline arm, results kept beside the claim."""

from collections.abc import Callable, Mapping, Sequence
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
from moe_tune.studies.experiment_file import ASSIGNMENT, Experiment, load_experiment
from moe_tune.studies.fit_check import fault_of_fit
from moe_tune.studies.measurement import refuse_mixed_measurements


def run_experiment(
    folder: Path,
    execute: Callable[[ArmRun], Path],
    *,
    plugins: dict[str, str] | None = None,
    full: bool = False,
    fresh: bool = False,
    controls: Callable[[Controlled], list[Control]] | None = None,
) -> Comparison:
    """Run all arms of an experiment, compare them and write ``results/``.

    Every arm's configuration is read before one of them runs. An arm whose first run has nothing to train is run with
    the first seed only.

    Args:
        folder: The experiment's folder.
        execute: What runs one arm with one seed and returns its run directory.
        plugins: sha256 of the plug-in files, by path.
        full: Whether the arms under ``full_arms`` run, too.
        fresh: Whether finished runs run again.
        controls: What puts the arm under controls that did best on validation; ``None`` leaves it out.

    Raises:
        ConfigError: ``experiment.yaml`` or an arm's configuration has a fault, or the arms ask their questions in
            different ways.
        DataError: The arms' runs cannot be compared.
    """
    experiment = load_experiment(folder)
    arms = experiment.arms | (experiment.full_arms if full else {})
    refuse_mixed_measurements(experiment, arms)
    asked = {
        arm: [
            ArmRun(arm, seed, arm_arguments(experiment, settings, seed), f"{experiment.name}-{arm}", fresh)
            for seed in experiment.seeds
        ]
        for arm, settings in arms.items()
    }
    console, seeds = Console(markup=False, highlight=False), ", ".join(map(str, experiment.seeds))
    console.print(f"{experiment.name}: {len(arms)} arms, seeds {seeds}. {experiment.claim}")
    faults = {arm: fault_of_fit(runs[0].argv, plugins) for arm, runs in asked.items()}
    if told := [f"{folder / 'experiment.yaml'}: arm {arm}: {fault}" for arm, fault in faults.items() if fault]:
        raise ConfigError("\n".join(told))
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for place, arm in enumerate(arms, start=1):
        for one in asked[arm]:
            console.print(f"arm {place}/{len(arms)}: {arm}, seed {one.seed}")
            run = load_run(execute(one))
            runs[arm].append(run)
            if run.manifest["trainable_parameters"] == 0:
                break

    about = {"experiment": experiment.name, "claim": experiment.claim, "date": now(), "git_commit": git_commit(folder)}
    about |= environment()
    checked = [] if controls is None else controls(_controlled(experiment, arms, runs, console))
    compared = []
    for arm in (experiment.baseline, *experiment.also_against):
        against = "" if arm == experiment.baseline else f"against {arm}"
        results = folder / "results" / against.replace(" ", "_")
        comparison = compare_arms(runs, arm, experiment.splits, experiment.protocols)
        title = f"{experiment.name}, {against}" if against else experiment.name
        shown = () if against else checked
        write_comparison(comparison, results, title=title, lead=experiment.claim, provenance=about, controls=shown)
        if not against:
            console.print(render_terminal(comparison))
        console.print(f"{against or 'report'}: {results / 'report.html'}", soft_wrap=True)
        compared.append(comparison)
    return compared[0]


def _controlled(
    experiment: Experiment, arms: Mapping[str, list[str]], runs: Mapping[str, list[Run]], console: Console
) -> Controlled:
    """Return the arm that did best on validation among those that train, and what its controls need."""
    trained = [arm for arm in arms if runs[arm][0].manifest["trainable_parameters"] and arm != experiment.baseline]
    best = max(trained or [arm for arm in arms if arm != experiment.baseline], key=lambda arm: _validated(runs[arm]))
    console.print(f"controls of {best}, the best arm on validation")
    primary = next(iter(experiment.splits), "test")
    argv = {run.seed: arm_arguments(experiment, arms[best], run.seed) for run in runs[best]}
    return Controlled(experiment.name, best, runs[best], argv, primary)


def _validated(runs: Sequence[Run]) -> float:
    found = [validation_summary(run.path).get("validation/accuracy", 0.0) for run in runs]
    return sum(found) / len(found)


def arm_arguments(experiment: Experiment, settings: list[str], seed: int) -> list[str]:
    """Return the command line of one run: files and values of the base, those of the arm in order, the seed."""
    argv: list[str] = []
    for setting in [*experiment.base, *settings]:
        argv += [f"--{setting}"] if ASSIGNMENT.match(setting) else ["--config", setting]
    return [*argv, f"--seed_everything={seed}"]
