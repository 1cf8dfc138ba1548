"""Experiments: every arm with every seed, compared with the baseline arm, results kept beside the claim."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_tune.runs.directory import environment, now
from moe_tune.studies.experiment_file import ASSIGNMENT, Experiment, load_experiment
from moe_tune.studies.measurement import refuse_mixed_measurements

if TYPE_CHECKING:
    from moe_tune.compare.comparison import Comparison


@dataclass(frozen=True, slots=True)
class ArmRun:
    """One run an experiment asks for.

    Attributes:
        arm: Name of the arm.
        seed: Seed of everything random.
        argv: Arguments of the command line: configurations, overrides, the seed.
        name: Short name of the run, ``<experiment>-<arm>``.
        fresh: Whether to start anew if the run exists, finished or not.
    """

    arm: str
    seed: int
    argv: list[str]
    name: str
    fresh: bool


def run_experiment(
    folder: Path, execute: Callable[[ArmRun], Path], *, full: bool = False, fresh: bool = False
) -> "Comparison":
    """Run all arms of an experiment, compare them and write ``results/``.

    An arm whose first run has nothing to train is run with the first seed only.

    Args:
        folder: Folder that holds ``experiment.yaml``.
        execute: Makes (or finds finished) one run and returns its directory.
        full: Whether to add the arms under ``full_arms``.
        fresh: Whether finished runs are made again.

    Raises:
        ConfigError: ``experiment.yaml`` has a fault, or its arms ask their questions in different ways.
        DataError: The arms' runs cannot be compared.
    """
    from rich.console import Console

    from moe_tune.compare.comparison import compare_arms
    from moe_tune.compare.report import write_comparison
    from moe_tune.compare.runs import Run, load_run
    from moe_tune.compare.terminal import render_terminal

    experiment = load_experiment(folder)
    arms = experiment.arms | (experiment.full_arms if full else {})
    refuse_mixed_measurements(experiment, arms)
    console = Console()
    console.print(
        f"{experiment.name}: {len(arms)} arms, seeds {', '.join(map(str, experiment.seeds))}. {experiment.claim}",
        markup=False,
        highlight=False,
    )
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for place, arm in enumerate(arms, start=1):
        for seed in experiment.seeds:
            console.print(f"arm {place}/{len(arms)}: {arm}, seed {seed}", markup=False, highlight=False)
            name = f"{experiment.name}-{arm}"
            run = load_run(execute(ArmRun(arm, seed, arm_arguments(experiment, arms[arm], seed), name, fresh)))
            runs[arm].append(run)
            if run.manifest["trainable_parameters"] == 0:
                break

    comparison = compare_arms(runs, experiment.baseline, experiment.splits, experiment.protocols)
    results = folder / "results"
    write_comparison(
        comparison, results, title=experiment.name, lead=experiment.claim, provenance=_provenance(experiment, folder)
    )
    console.print(render_terminal(comparison))
    console.print(f"report: {results / 'report.html'}", soft_wrap=True)
    for arm in experiment.also_against:
        folder_of_arm = results / f"against_{arm}"
        write_comparison(
            compare_arms(runs, arm, experiment.splits, experiment.protocols),
            folder_of_arm,
            title=f"{experiment.name}, against {arm}",
            lead=experiment.claim,
            provenance=_provenance(experiment, folder),
        )
        console.print(f"against {arm}: {folder_of_arm / 'report.html'}", soft_wrap=True)
    return comparison


def arm_arguments(experiment: Experiment, settings: list[str], seed: int) -> list[str]:
    """Return the command line of one run: base configurations, the arm's overlays and values in order, the seed.

    Args:
        experiment: The experiment.
        settings: The arm's overlays and ``key=value`` texts.
        seed: Seed of the run.
    """
    argv = [part for path in experiment.base for part in ("--config", path)]
    for setting in settings:
        argv += [f"--{setting}"] if ASSIGNMENT.match(setting) else ["--config", setting]
    return [*argv, f"--seed_everything={seed}"]


def _provenance(experiment: Experiment, folder: Path) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "date": now(),
        "git_commit": _git_commit(folder),
        **environment(),
    }


def _git_commit(folder: Path) -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
