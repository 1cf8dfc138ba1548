"""The verb ``sweep``: a W&B sweep file run on this machine, without a server."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import WorkLock
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.runs.directory import identity
from moe_tune.studies.sweep_check import faults_of
from moe_tune.studies.sweep_file import Sweep, load_sweep
from moe_tune.studies.sweep_points import SweepPoint, load_points
from moe_tune.studies.sweep_report import write_report
from moe_tune.studies.sweep_runner import run_point, run_sweep

NOT_IDENTITY = ("name", "description", "project", "entity", "run_cap")
"""Keys of a sweep file that change none of its points."""


def main(argv: list[str], plugins: dict[str, str] | None = None) -> int:
    """Run a sweep file, show its points as they go, write the report and return 0; 1 if no point ended well.

    Args:
        argv: Arguments after the verb.
        plugins: sha256 of the user's plug-in files, by path.

    Raises:
        ConfigError: The file has mistakes, the sweep has no end, or another process runs it.
    """
    parser = argparse.ArgumentParser(
        prog="moe_tune sweep",
        description="Run a W&B sweep file on this machine; the same command again goes on where it was interrupted.",
    )
    parser.add_argument("file", type=Path, help="such as configs/sweep/temperature.yaml")
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--count", type=int, help="most points in all; if left, the file's run_cap or all of a grid")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; above 1 in processes of their own")
    parser.add_argument("--seed", type=int, default=0, help="seed of random proposals")
    given = parser.parse_args(argv)

    sweep = load_sweep(given.file)
    if min(given.workers, given.seed + 1, 1 if given.count is None else given.count) < 1:
        raise ConfigError("expected counts of at least 1 and a seed of at least 0 (--count, --workers, --seed).")
    count = sweep.config.get("run_cap") if given.count is None else given.count
    if count is None and sweep.config.get("method") != "grid":
        raise ConfigError(
            f"expected a number of points for a {sweep.config.get('method')} search but got none (--count). "
            "Hint: --count 20; only a grid ends by itself."
        )
    if faults := faults_of(given.file, plugins):
        raise ConfigError("\n".join(faults))
    folder = sweep_folder(sweep, given.runs_root, given.seed, plugins)
    console = Console()
    console.print(f"sweep: {folder}", soft_wrap=True, highlight=False)
    with WorkLock(folder, "a sweep", "wait for it, or stop it and give --workers 2 for runs at a time."):
        with Live(console=console, refresh_per_second=1, get_renderable=lambda: _table(sweep, folder)):
            points = run_sweep(
                sweep, folder, run_point, count=count, seed=given.seed, workers=given.workers, plugins=plugins
            )
        explained, best = write_report(sweep, folder, points)
    for point in points:
        if point.note:
            console.print(f"point {point.index} failed: {point.note}", soft_wrap=True, markup=False, highlight=False)
    console.print(explained, highlight=False)
    if best is None:
        console.print(f"no point has a value of {sweep.metric}")
        return 1
    console.print(f"best: {sweep.best_command(best)}", soft_wrap=True, markup=False, highlight=False)
    return 0


def sweep_folder(sweep: Sweep, runs_root: Path, seed: int, plugins: dict[str, str] | None = None) -> Path:
    """Return the folder of a sweep: another for every content, also of its base, and seed; the same for more points.

    Args:
        sweep: The sweep.
        runs_root: Folder of all runs.
        seed: Seed of random proposals, at least 0.
        plugins: sha256 of the user's plug-in files, by path.
    """
    content = {
        "sweep": {key: value for key, value in sweep.config.items() if key not in NOT_IDENTITY},
        "bases": [value if value.lstrip().startswith("{") else load_yaml(Path(value)) for value in sweep.configs],
        "plugins": sorted((plugins or {}).values()),
    }
    return runs_root / f"sweep-{sweep.file.stem}-s{seed}-{identity(content)}"


def _table(sweep: Sweep, folder: Path) -> Table:
    points = load_points(folder)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("point", "status", *sweep.parameters, "epochs", f"best {sweep.metric}"):
        table.add_column(name, overflow="fold")
    for point in points[-30:]:  # what fits on a screen; results.csv has them all
        table.add_row(*_cells(sweep, folder, point))
    return table


def _cells(sweep: Sweep, folder: Path, point: SweepPoint) -> list[str]:
    best = point.best(folder, sweep.metric, sweep.maximised)
    values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in point.values.values()]
    epochs = len(point.history(folder, sweep.metric))
    return [str(point.index), point.status, *values, str(epochs), "" if best is None else f"{best:.4f}"]
