"""Which point is next and which run is stopped: W&B's own ``sweeps`` library, asked without a server."""

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_tune.runs.agent import StoppedBySweep
from moe_tune.studies.sweep_file import Sweep
from moe_tune.studies.sweep_points import SweepPoint, load_points

STATES = {"running": "running", "finished": "finished", "stopped": "finished", "failed": "failed"}
"""Our statuses in W&B's words; a run that hyperband stopped ends with exit code 0, which W&B calls finished."""


def library() -> Any:
    """Return the ``sweeps`` package, imported when it is needed and without its own import-time warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sweeps
    return sweeps


def next_values(sweep: Sweep, points: list[SweepPoint], folder: Path, seed: int) -> dict[str, Any] | None:
    """Return the parameters of the next point; ``None`` when a grid has none left.

    It depends on the seed, the points so far and their histories alone, so that an interrupted sweep goes on as if it
    had not been interrupted.

    Reference: Snoek, Larochelle, Adams 2012, https://arxiv.org/abs/1206.2944.
    """
    sweeps = library()
    state = int(np.random.SeedSequence([seed, len(points)]).generate_state(1)[0])
    random.seed(state)  # the library draws from the process's generators
    np.random.seed(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a Gaussian process fitted to few points
        proposed = sweeps.next_run(_config(sweep), _as_runs(sweep, points, folder))
    if proposed is None:
        return None
    return {key: plain(entry["value"]) for key, entry in proposed.config.items()}


def shall_stop(sweep: Sweep, points: list[SweepPoint], folder: Path, index: int) -> bool:
    """Return whether hyperband stops a running point.

    The library looks at a band once more values than its ``min_iter`` were logged.

    Reference: Li et al. 2018, https://arxiv.org/abs/1603.06560.
    """
    sweeps = library()
    stopped = sweeps.stop_runs(_config(sweep), _as_runs(sweep, points, folder))
    return any(run.name == str(index) for run in stopped)


def plain(value: Any) -> Any:
    """Return a value without numpy's types."""
    return value.item() if isinstance(value, np.generic) else value


class Hyperband(Callback):
    """Stops a point's run after a validation when its sweep says so.

    Args:
        sweep: The sweep, with ``early_terminate``.
        folder: The sweep's folder; other points are read from it as they are at that time.
        index: The point that is run.
    """

    def __init__(self, sweep: Sweep, folder: Path, index: int) -> None:
        self.sweep, self.folder, self.index = sweep, folder, index

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask after every validation of a fit; the last epoch or step is let finish.

        Raises:
            StoppedBySweep: The run is among those that are stopped.
        """
        # Lightning's -1 is no limit; a fit by steps has no limit of epochs.
        last_epoch = 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        last_step = 0 <= trainer.max_steps <= trainer.global_step
        if trainer.state.fn != "fit" or last_epoch or last_step:
            return
        if shall_stop(self.sweep, load_points(self.folder), self.folder, self.index):
            raise StoppedBySweep


def _config(sweep: Sweep) -> Any:
    """Return what the library validates; it does not know ``run_cap``, which the service reads."""
    return library().SweepConfig({key: value for key, value in sweep.config.items() if key != "run_cap"})


def _as_runs(sweep: Sweep, points: list[SweepPoint], folder: Path) -> list[Any]:
    sweeps = library()
    return [
        sweeps.SweepRun(
            name=str(point.index),
            state=STATES[point.status],
            config={key: {"value": value} for key, value in point.values.items()},
            sampledHistory=[{sweep.metric: value} for value in point.history(folder, sweep.metric)],
        )
        for point in points
    ]


def with_extremes(name: str, spec: dict[str, Any]) -> list[Any]:
    """Return the values of a parameter that a check tries: all listed ones, or both ends of a range."""
    if "value" in spec or "values" in spec:
        return list(spec.get("values", [spec.get("value")]))
    library()
    from sweeps.params import HyperParameter

    parameter = HyperParameter(name, json.loads(json.dumps(spec)))
    # An unbounded distribution has no ends; 1 in 1,000 lies beyond these.
    return [plain(parameter.ppf(share)) for share in ((0.0, 1.0) if "min" in spec else (0.0005, 0.9995))]
