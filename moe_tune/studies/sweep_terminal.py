"""A sweep on the terminal: its points while they run, and at the end what each parameter explains and the best one."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from rich.live import Live
from rich.table import Table as Drawn

from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import WorkLock
from moe_tune.reports.console import PlainConsole
from moe_tune.reports.table import Table, numbers, shares, words
from moe_tune.studies.sweep_file import Sweep, sweep_folder
from moe_tune.studies.sweep_points import load_points, opened_again
from moe_tune.studies.sweep_report import write_report
from moe_tune.studies.sweep_runner import Execute, run_point, run_sweep

SHOWN = 30
"""Points that fit on a screen; results.csv has them all."""


def run_and_show(
    sweep: Sweep,
    runs_root: Path,
    *,
    count: int | None,
    seed: int,
    workers: int,
    plugins: dict[str, str],
    retry: bool,
    retry_command: str,
    execute: Execute = run_point,
) -> bool:
    """Run a sweep, show its points as they go, write its report and return whether no point failed and one is best.

    Args:
        sweep: The sweep.
        runs_root: Folder of all runs, which the sweep's own is made in.
        count: Most points in all; ``None`` is all of a grid.
        seed: Seed of random proposals.
        workers: Runs at a time.
        plugins: sha256 of the plug-in files, by path.
        retry: Whether points that failed run again.
        retry_command: What the user may give to that end.
        execute: What runs a point.
    """
    folder = sweep_folder(sweep, runs_root, seed, plugins)
    console = PlainConsole(highlight=False)
    console.print(f"sweep: {folder}", soft_wrap=True)
    with WorkLock(folder, "a sweep", "wait for it, or stop it and give --workers 2 for runs at a time."):
        if retry and not load_points(folder):
            raise ConfigError(_nothing_to_retry(folder))
        for index, why in opened_again(folder, failed=retry).items():
            console.print(f"point {index} runs again: {why}", soft_wrap=True)
        live = Live(console=console, refresh_per_second=1, get_renderable=lambda: points_table(sweep, folder))
        with live if console.is_terminal else nullcontext():
            points = run_sweep(sweep, folder, execute, count=count, seed=seed, workers=workers, plugins=plugins)
        explained, best = write_report(sweep, folder, points, plugins)
    if not console.is_terminal:
        console.print(points_table(sweep, folder))
    failed = [point for point in points if point.status == "failed"]
    for point in failed:
        console.print(f"point {point.index} failed: {point.note}", soft_wrap=True)
    if failed:
        console.print(f"to run what failed again: {retry_command}", soft_wrap=True)
    console.print(_explained(sweep, explained))
    said = f"best: {sweep.best_command(best, plugins)}" if best else f"no point has a value of {sweep.metric}"
    console.print(said, soft_wrap=True)
    return best is not None and not failed


def _nothing_to_retry(folder: Path) -> str:
    beside = folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")
    others = sorted(str(other) for other in beside if any(one.status == "failed" for one in load_points(other)))
    found = f"; points failed in {', '.join(others)}, a sweep of other content" if others else ""
    return (
        f"expected a sweep with points but got none in {folder} (--retry failed){found}. Hint: without --retry it runs "
        "from its first point on: another sweep file, base or plug-in file is another sweep."
    )


def points_table(sweep: Sweep, folder: Path) -> Drawn:
    """Return the newest points as they stand, a column for each parameter."""
    points = load_points(folder)[-SHOWN:]
    varied = [words(name, [_text(point.values.get(name, "")) for point in points]) for name in sweep.parameters]
    return Table(
        [
            numbers("point", [point.index for point in points]),
            words("status", [point.status for point in points]),
            *varied,
            numbers("epochs", [len(point.history(folder, sweep.metric)) for point in points]),
            numbers(sweep.metric, [point.value(folder, sweep.metric) for point in points], ".4f"),
        ]
    ).terminal()


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _explained(sweep: Sweep, explained: pd.DataFrame) -> Drawn:
    title = f"how much of the spread of {sweep.metric} each parameter explains by itself (associational)"
    return Table(
        [
            words("parameter", explained["parameter"]),
            numbers("values", explained["values"]),
            shares("share %", explained["share"]),
            shares("adjusted %", explained["adjusted"]),
        ],
        title=title,
    ).terminal()
