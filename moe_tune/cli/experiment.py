"""The verb ``experiment``: runs the arms in this process, one after the other."""

from pathlib import Path
from typing import Any

from moe_tune.base.locks import WorkLock
from moe_tune.base.uncollected import uncollected
from moe_tune.cli.verbs import parsed


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("folder", type=Path, help="folder with an experiment.yaml")
    parser.add_argument(
        "--full", action="store_true", help="add full_arms, tune (the sweeps: hours), and run on the other models"
    )
    parser.add_argument(
        "--controls", action="store_true", help="put the arm that is best on validation under the controls C1 to C9"
    )
    parser.add_argument("--fresh", action="store_true", help="run finished runs again")
    parser.add_argument("--runs_root", default="runs", help="folder of all runs, runs by default")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Run an experiment folder."""
    given = parsed("experiment", add_arguments, argv)
    with uncollected():
        from moe_tune.studies.bench import Bench
        from moe_tune.studies.controls import control_with
        from moe_tune.studies.experiment import run_experiment
        from moe_tune.studies.tuning import tune_with

    with WorkLock(Path(given.runs_root) / f"experiment-{given.folder.resolve().name}", "an experiment"):
        bench = Bench(given.runs_root, plugins)
        controls = control_with(bench) if given.controls else None
        run_experiment(
            given.folder,
            bench.fit,
            plugins=plugins,
            full=given.full,
            fresh=given.fresh,
            controls=controls,
            tune=tune_with(bench),
        )
    return 0
