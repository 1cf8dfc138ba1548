"""Runs of one base model, which is loaded once: their heads are put on it one run after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moe_tune.base.checkpoint_folder import CONFIG
from moe_tune.base.errors import ConfigError
from moe_tune.base.found import CHECKPOINTS
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.workbench import SharedBase
from moe_tune.tuner.opening import ModelSettings, OpenModel, open_model
from moe_tune.tuner.router_tuner import RouterTuner

GPU = ("auto", "gpu", "cuda")
"""Accelerators of a configuration under which a GPU is used where there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class RunToOpen:
    """A run and what its configuration says, with nothing loaded.

    Attributes:
        name: The run directory's name; of a checkpoint that is not the run's usual one also its own.
        home: The run directory.
        checkpoint: The folder of its checkpoint.
        model: Its model's configuration, on a base that is shared.
        device: Where its configuration wants the model, as far as this machine goes.
    """

    name: str
    home: Path
    checkpoint: Path
    model: RouterTuner
    device: torch.device

    @property
    def asked(self) -> ModelSettings:
        """What the configuration says of the model."""
        return self.model.asked


def runs_to_open(checkpoints: Sequence[Path], plugins: dict[str, str]) -> list[RunToOpen]:
    """Read the configurations of runs, which have to be of one base model and numerics: they share what is loaded.

    Args:
        checkpoints: The folders of their checkpoints, as ``found_checkpoint`` returns them.
        plugins: sha256 of the user's plug-in files, by path.

    Raises:
        ConfigError: A run is named twice, or two are of different base models or route in different numerics.
    """
    runs: list[RunToOpen] = []
    for checkpoint in checkpoints:
        home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
        usual = next((one for name in CHECKPOINTS if (one := home / "checkpoints" / name).is_dir()), checkpoint)
        name = home.name if checkpoint == usual else f"{home.name}-{checkpoint.stem}"
        read = FitSettings(["--config", str(checkpoint / CONFIG)], plugins)
        gpu = read.settings.trainer.accelerator in GPU and torch.cuda.is_available()
        runs.append(RunToOpen(name, home, checkpoint, read.model, torch.device("cuda" if gpu else "cpu")))
    first = runs[0]
    for place, run in enumerate(runs):
        if (run.asked.base, run.asked.routing_dtype) != (first.asked.base, first.asked.routing_dtype):
            raise ConfigError(
                f"expected runs of one base model but got {first.name} of {_numerics(first)} and {run.name} of "
                f"{_numerics(run)}. Hint: a command for each."
            )
        if run.name in (earlier.name for earlier in runs[:place]):
            raise ConfigError(f"expected runs of different names but got {run.name} twice. Hint: name each run once.")
    shared = SharedBase(first.asked.base)
    for run in runs:
        run.model.base = shared
    return runs


def opened_runs(runs: Sequence[RunToOpen], device: torch.device) -> Iterator[tuple[RunToOpen, OpenModel]]:
    """Yield each run with its heads on the shared model, which are taken off before the next puts its own on.

    The experts are computed as suits many tokens, in the same way for all runs.

    Raises:
        ModelError: A checkpoint is not intact, or was made for another base model.
    """
    for run in runs:
        opened = open_model(run.asked, device)
        try:
            opened.gated.model.set_experts_implementation(opened.pass_experts)
            opened.restore(RouterCheckpointIO().load_checkpoint(run.checkpoint))
            opened.gated.train(False)
            yield run, opened
        finally:
            opened.gated.detach()


def _numerics(run: RunToOpen) -> str:
    base = run.asked.base
    return f"{base.path} ({base.dtype}, routing in {run.asked.routing_dtype})"
