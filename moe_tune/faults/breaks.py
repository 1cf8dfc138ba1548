"""What a new process breaks in itself before it runs a command: see ``before`` of a trial."""

import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

Step = Callable[..., Tensor]


def at_step(step: int, act: Callable[[Tensor], Tensor]) -> None:
    """Let something happen to the loss of one optimiser step, counted from 0."""
    from moe_tune.tuner.router_tuner import RouterTuner

    stock: Step = RouterTuner.training_step

    def broken(tuner: Any, *batch: Any) -> Tensor:
        loss = stock(tuner, *batch)
        return act(loss) if tuner.global_step == step else loss

    RouterTuner.training_step = broken  # type: ignore[assignment, method-assign]


def signal_at(step: int, number: int = signal.SIGKILL) -> None:
    """Send the process a signal in the midst of a training step."""

    def act(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return loss

    at_step(step, act)


def nan_at(step: int) -> None:
    """Make the logits of a training step NaN, and with them its loss."""
    tuner: Any = importlib.import_module("moe_tune.tuner.router_tuner")
    stock = tuner.judge

    def broken(logits_BV: Tensor, *rest: Any) -> Any:
        return stock(logits_BV * float("nan") if f"train split, step {step} " in str(rest) else logits_BV, *rest)

    tuner.judge = broken


def import_from(folder: str) -> None:
    """Let modules of a folder be found."""
    sys.path.insert(0, folder)


def wait_at(step: int, there: str, until: str) -> None:
    """Write a file at a step, and go on when another one is there, or after a minute."""

    def act(loss: Tensor) -> Tensor:
        Path(there).touch()
        end = time.monotonic() + 60
        while not Path(until).exists() and time.monotonic() < end:
            time.sleep(0.02)
        return loss

    at_step(step, act)


def small_files(size: int) -> None:
    """Let no file of the process grow beyond a size, in bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
