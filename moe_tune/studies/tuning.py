"""Settings of arms that sweeps choose on validation, and the committed choices where none is run."""

from collections.abc import Callable, Mapping
from pathlib import Path

from moe_tune.base.errors import ConfigError, NumericsError, did_you_mean
from moe_tune.reports.console import PlainConsole
from moe_tune.runs.directory import now
from moe_tune.studies.arm_sweeps import METRIC, arm_sweeps, budget, origin
from moe_tune.studies.bench import Bench
from moe_tune.studies.experiment_file import Experiment
from moe_tune.studies.sweep_check import faults_of_sweep
from moe_tune.studies.sweep_file import Sweep, sweep_folder
from moe_tune.studies.sweep_points import load_points
from moe_tune.studies.sweep_terminal import run_and_show
from moe_tune.studies.tuned_file import FILE, Tuned, load_tuned, write_tuned

Tune = Callable[[Sweep, int, str, str], Tuned]
"""Runs a sweep of so many points and returns what it chose; it is told the origin, and the command to run it again."""


def tune_with(bench: Bench) -> Tune:
    """Return what runs a sweep on a bench; what was finished before is not run again."""

    def tune(sweep: Sweep, count: int, origin: str, command: str) -> Tuned:
        root = Path(bench.runs_root)
        folder = sweep_folder(sweep, root, 0, bench.plugins)
        retry = any(point.status == "failed" for point in load_points(folder))
        run_and_show(
            sweep, root, count=count, seed=0, workers=1, plugins=bench.plugins, retry=retry, retry_command=command,
            execute=bench.point,
        )  # fmt: skip
        return best_of(sweep, folder, count, origin)

    return tune


def best_of(sweep: Sweep, folder: Path, count: int, origin: str) -> Tuned:
    """Return the best among the first ``count`` points of a sweep that has ended, the first of equals.

    Raises:
        NumericsError: No point has a value.
    """
    points = load_points(folder)[:count]  # a sweep of a larger run_cap may have been here before
    values = {point.index: point.value(folder, METRIC) for point in points if point.status != "failed"}
    judged = {index: value for index, value in values.items() if value is not None}
    if not judged:
        raise NumericsError(
            f"expected a point with a {METRIC} but got none of {len(points)} ({folder}). "
            f"Hint: the notes of results.csv there say why; mend {sweep.file}."
        )
    best = max(judged, key=lambda index: judged[index])
    failed = sum(point.status == "failed" for point in points)
    return Tuned(points[best].values, judged[best], len(points), failed, origin, now())


def tuned_arms(
    experiment: Experiment,
    arms: Mapping[str, list[str]],
    folder: Path,
    *,
    tune: Tune | None,
    plugins: dict[str, str] | None,
) -> dict[str, list[str]]:
    """Return the arms with what was chosen for them put after their settings.

    Args:
        experiment: The experiment.
        arms: Settings of the arms that run.
        folder: The experiment's folder, where ``tuned.yaml`` lies.
        tune: What runs a sweep; ``None`` takes the committed choices.
        plugins: sha256 of the plug-in files, by path.

    Raises:
        ConfigError: A sweep has a fault, or an arm's choice is missing or of another sweep.
    """
    whose = {arm: experiment.tuned_as.get(arm, arm) for arm in arms}
    sweeps = {arm: sweep for arm, sweep in arm_sweeps(experiment).items() if arm in whose.values()}
    chosen: dict[str, Tuned] = {}
    command = f"python -m moe_tune experiment {folder} --full"
    if tune is not None:
        faults = [
            f"{one.file}: arm {arm}: {said}" for arm, one in sweeps.items() for said in faults_of_sweep(one, plugins)
        ]
        if faults:
            raise ConfigError("\n".join(faults))
        before = load_tuned(folder)
        for arm, sweep in sweeps.items():
            chosen[arm] = tune(sweep, budget(sweep), origin(experiment, arm, sweep), command)
            # An interrupted tuning keeps what it has, and what was there of the others.
            write_tuned(folder, {one: entry for one in sweeps if (entry := chosen.get(one, before.get(one)))})
    elif sweeps:
        chosen = load_tuned(folder)
        if unknown := sorted(chosen.keys() - experiment.tune.keys()):
            raise ConfigError(
                f"expected arms under tune but got {unknown[0]!r} ({folder / FILE}). "
                f"Hint: {did_you_mean(unknown[0], experiment.tune)}"
            )
        for arm, sweep in sweeps.items():
            _require_current(folder, arm, sweep, chosen, command)
            if chosen[arm].origin != origin(experiment, arm, sweep):
                say = PlainConsole(highlight=False).print
                say(
                    f"{FILE}: sweep, base or settings of {arm} have changed since; `{command}` chooses anew",
                    soft_wrap=True,
                )
    found = {arm: chosen[arm].as_settings() for arm in sweeps}
    return {arm: [*said, *found.get(whose[arm], [])] for arm, said in arms.items()}


def _require_current(folder: Path, arm: str, sweep: Sweep, chosen: Mapping[str, Tuned], command: str) -> None:
    file, hint = folder / FILE, f"`{command}` chooses them on validation."
    if arm not in chosen:
        raise ConfigError(f"expected settings chosen for arm {arm!r} but got none ({file}). Hint: {hint}")
    one, points = chosen[arm], budget(sweep)
    if one.settings.keys() != sweep.parameters.keys() or one.points != points:
        raise ConfigError(
            f"expected {', '.join(sweep.parameters)} chosen from {points} points for arm {arm!r} but got "
            f"{', '.join(one.settings)} from {one.points} ({file}): the sweep is another now. Hint: {hint}"
        )
