"""A sweep on the terminal: its points while they run, and at the end what each parameter explains and the best one."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from moe_tune.base.locks import WorkLock
from moe_tune.studies.sweep_file import Sweep, sweep_folder
from moe_tune.studies.sweep_points import SweepPoint, load_points
from moe_tune.studies.sweep_report import write_report
from moe_tune.studies.sweep_runner import run_point, run_sweep

SHOWN = 30
"""Points that fit on a screen; results.csv has them all."""


def run_and_show(
    sweep: Sweep, runs_root: Path, count: int | None, seed: int, workers: int, plugins: dict[str, str]
) -> Path | None:
    """Run a sweep, show its points as they go, write its report and return the overlay of the best point, if any."""
    folder = sweep_folder(sweep, runs_root, seed, plugins)
    console = Console()
    console.print(f"sweep: {folder}", soft_wrap=True, highlight=False)
    with WorkLock(folder, "a sweep", "wait for it, or stop it and give --workers 2 for runs at a time."):
        with Live(console=console, refresh_per_second=1, get_renderable=lambda: _points(sweep, folder)):
            points = run_sweep(sweep, folder, run_point, count=count, seed=seed, workers=workers, plugins=plugins)
        explained, best = write_report(sweep, folder, points)
    for point in points:
        if point.note:
            console.print(f"point {point.index} failed: {point.note}", soft_wrap=True, markup=False, highlight=False)
    console.print(_explained(sweep, explained), highlight=False)
    if best is None:
        console.print(f"no point has a value of {sweep.metric}")
    else:
        console.print(f"best: {sweep.best_command(best)}", soft_wrap=True, markup=False, highlight=False)
    return best


def _points(sweep: Sweep, folder: Path) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("point", "status", *sweep.parameters, "epochs", f"best {sweep.metric}"):
        table.add_column(name, overflow="fold")
    for point in load_points(folder)[-SHOWN:]:
        table.add_row(*_cells(sweep, folder, point))
    return table


def _cells(sweep: Sweep, folder: Path, point: SweepPoint) -> list[str]:
    best = point.best(folder, sweep.metric, sweep.maximised)
    values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in point.values.values()]
    epochs = len(point.history(folder, sweep.metric))
    return [str(point.index), point.status, *values, str(epochs), "" if best is None else f"{best:.4f}"]


def _explained(sweep: Sweep, explained: pd.DataFrame) -> Table:
    title = f"how much of the spread of {sweep.metric} each parameter explains by itself (associational)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("parameter")
    for name in ("values", "share %", "adjusted %"):
        table.add_column(name, justify="right")
    for row in explained.to_dict("records"):
        shares = ["" if np.isnan(row[key]) else f"{100 * row[key]:.1f}" for key in ("share", "adjusted")]
        table.add_row(str(row["parameter"]), str(row["values"]), *shares)
    return table
