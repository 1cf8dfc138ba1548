"""Experiments: every arm with every seed, compared with the baseline arm, results kept beside the claim."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from moe_tune.base.commit import git_commit
from moe_tune.base.errors import ConfigError
from moe_tune.compare.comparison import Comparison, compare_arms
from moe_tune.compare.report import write_comparison
from moe_tune.compare.runs import Run, load_run
from moe_tune.compare.terminal import render_terminal
from moe_tune.runs.directory import environment, now
from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench
from moe_tune.studies.experiment_file import ASSIGNMENT, Experiment, load_experiment
from moe_tune.studies.fit_check import fault_of_fit
from moe_tune.studies.measurement import refuse_mixed_measurements


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
    folder: Path,
    execute: Callable[[ArmRun], Path],
    *,
    plugins: dict[str, str] | None = None,
    full: bool = False,
    fresh: bool = False,
) -> Comparison:
    """Run all arms of an experiment, compare them and write ``results/``.

    Every arm's configuration is read before one of them runs. An arm whose first run has nothing to train is run with
    the first seed only.

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
    compared = []
    for arm in (experiment.baseline, *experiment.also_against):
        against = "" if arm == experiment.baseline else f"against {arm}"
        results = folder / "results" / against.replace(" ", "_")
        comparison = compare_arms(runs, arm, experiment.splits, experiment.protocols)
        title = f"{experiment.name}, {against}" if against else experiment.name
        write_comparison(comparison, results, title=title, lead=experiment.claim, provenance=about)
        if not against:
            console.print(render_terminal(comparison))
        console.print(f"{against or 'report'}: {results / 'report.html'}", soft_wrap=True)
        compared.append(comparison)
    return compared[0]


def fitted_on_one_bench(runs_root: str, plugins: dict[str, str]) -> Callable[[ArmRun], Path]:
    """Return what fits arms one after the other in this process, on what the first of them has loaded."""
    workbench = Workbench()

    def execute(arm: ArmRun) -> Path:
        words = ["fit", *arm.argv, f"--name={arm.name}", f"--runs_root={runs_root}", "--test_after_fit=true"]
        return run([*words, "--fresh=true"] if arm.fresh else words, plugins, workbench).path

    return execute


def arm_arguments(experiment: Experiment, settings: list[str], seed: int) -> list[str]:
    """Return the command line of one run: files and values of the base, those of the arm in order, the seed."""
    argv: list[str] = []
    for setting in [*experiment.base, *settings]:
        argv += [f"--{setting}"] if ASSIGNMENT.match(setting) else ["--config", setting]
    return [*argv, f"--seed_everything={seed}"]
