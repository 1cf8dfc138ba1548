"""The verb ``sweep``: a W&B sweep file run on this machine, without a server."""

import shlex
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.uncollected import uncollected
from moe_tune.cli.verbs import parsed


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("file", type=Path, help="such as configs/sweep/temperature.yaml")
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of all runs, runs by default")
    parser.add_argument("--count", type=int, help="most points in all; if left, the file's run_cap or all of a grid")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; above 1 in processes of their own")
    parser.add_argument("--seed", type=int, default=0, help="seed of random proposals")
    parser.add_argument("--retry", choices=["failed"], help="run the points that failed again")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Run a sweep, show its points, write the report and return 0; 1 if a point failed or none has a value."""
    given = parsed("sweep", add_arguments, argv)
    with uncollected():
        from moe_tune.studies.fit_check import together
        from moe_tune.studies.sweep_check import faults_of
        from moe_tune.studies.sweep_file import load_sweep
        from moe_tune.studies.sweep_terminal import run_and_show

    sweep = load_sweep(given.file)
    if min(given.workers, given.seed + 1, 1 if given.count is None else given.count) < 1:
        raise ConfigError("expected counts of at least 1 and a seed of at least 0 (--count, --workers, --seed).")
    count = sweep.config.get("run_cap") if given.count is None else given.count
    if count is None and sweep.config.get("method") != "grid":
        raise ConfigError(
            f"expected a number of points for a {sweep.config.get('method')} search but got none (--count). "
            "Hint: --count 20; only a grid ends by itself."
        )
    given_files = [word for path in plugins for word in ("--plugins", path)]
    again = [*given_files, "sweep", *argv, *([] if given.retry else ["--retry", "failed"])]
    plugins = sweep.with_plugins(plugins)
    if faults := faults_of(given.file, plugins):
        raise together(faults)
    well = run_and_show(
        sweep,
        given.runs_root,
        count=count,
        seed=given.seed,
        workers=given.workers,
        plugins=plugins,
        retry=given.retry is not None,
        retry_command=f"python -m moe_tune {shlex.join(again)}",
    )
    return 0 if well else 1
