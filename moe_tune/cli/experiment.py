"""The verb ``experiment``: runs the arms in this process, one after the other."""

from pathlib import Path
from typing import Any

from moe_tune.base.locks import WorkLock
from moe_tune.cli.verbs import parsed


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("folder", type=Path, help="folder with an experiment.yaml")
    parser.add_argument("--full", action="store_true", help="add the arms under full_arms")
    parser.add_argument("--fresh", action="store_true", help="run finished runs again")
    parser.add_argument("--runs_root", default="runs", help="folder of all runs")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Run an experiment folder."""
    given = parsed("experiment", add_arguments, argv)
    from moe_tune.studies.experiment import fitted_on_one_bench, run_experiment

    with WorkLock(Path(given.runs_root) / f"experiment-{given.folder.resolve().name}", "an experiment"):
        execute = fitted_on_one_bench(given.runs_root, plugins)
        run_experiment(given.folder, execute, plugins=plugins, full=given.full, fresh=given.fresh)
    return 0
