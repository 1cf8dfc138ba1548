"""The verb ``experiment``: runs the arms in this process, one after the other."""

import argparse
from pathlib import Path

from moe_tune.base.locks import WorkLock
from moe_tune.studies.experiment import ArmRun, run_experiment


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Run an experiment folder and return the exit code.

    Args:
        argv: Arguments after the verb.
        plugins: sha256 of the user's plug-in files, by path.
    """
    parser = argparse.ArgumentParser(
        prog="moe_tune experiment", description="Run every arm with every seed, then compare."
    )
    parser.add_argument("folder", type=Path, help="folder with an experiment.yaml")
    parser.add_argument("--full", action="store_true", help="add the arms under full_arms")
    parser.add_argument("--fresh", action="store_true", help="run finished runs again")
    parser.add_argument("--runs_root", default="runs", help="folder of all runs")
    given = parser.parse_args(argv)

    from moe_tune.settings.workbench import Workbench

    workbench = Workbench()

    def execute(arm: ArmRun) -> Path:
        from moe_tune.settings.tuner_cli import AlreadyComplete, run

        words = ["fit", *arm.argv, f"--name={arm.name}", f"--runs_root={given.runs_root}", "--test_after_fit=true"]
        words += ["--fresh=true"] if arm.fresh else []
        try:
            return run(words, plugins, workbench)
        except AlreadyComplete as done:
            return done.path

    with WorkLock(Path(given.runs_root) / f"experiment-{given.folder.resolve().name}", "an experiment"):
        run_experiment(given.folder, execute, full=given.full, fresh=given.fresh)
    return 0
