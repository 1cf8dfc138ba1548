"""The bench that the runs of an experiment share: one process, one base model, data read once."""

from dataclasses import dataclass
from pathlib import Path

from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench
from moe_tune.studies.sweep_file import Sweep
from moe_tune.studies.sweep_points import Status, SweepPoint
from moe_tune.studies.sweep_runner import run_point


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


class Bench:
    """Runs arms one after the other in this process, on what the first of them has loaded.

    Args:
        runs_root: Folder of all runs.
        plugins: sha256 of the plug-in files, by path.
    """

    def __init__(self, runs_root: str, plugins: dict[str, str]) -> None:
        self.runs_root, self.plugins = runs_root, plugins
        self.workbench = Workbench()

    def fit(self, arm: ArmRun) -> Path:
        """Fit and test one arm with one seed, unless that was done before; return the run directory."""
        words = ["fit", *arm.argv, f"--name={arm.name}", f"--runs_root={self.runs_root}", "--test_after_fit=true"]
        return run([*words, "--fresh=true"] if arm.fresh else words, self.plugins, self.workbench).path

    def test(self, fitted: Path, checkpoint: Path | None, name: str, *words: str) -> Path:
        """Test a run's heads again under other settings, and return the directory of that."""
        argv = ["test", "--config", str(fitted / "config.yaml"), *words, f"--name={name}"]
        argv += [f"--runs_root={self.runs_root}", *([f"--ckpt_path={checkpoint}"] if checkpoint else [])]
        return run(argv, self.plugins, self.workbench).path

    def point(self, sweep: Sweep, folder: Path, point: SweepPoint, plugins: dict[str, str]) -> tuple[Status, str]:
        """Fit a point of a sweep; return how it ended, and why if it failed."""
        return run_point(sweep, folder, point, plugins, self.workbench)
