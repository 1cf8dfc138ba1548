"""The fixture ``wandb_server``, and what tests do with programs that talk to it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wandb_server.server import WandbServer

TINY_FIT = [
    *("--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml", "--test_after_fit", "false"),
    *("--data.limit_train", "16", "--data.limit_validation", "16", "--data.batch_size", "4"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
]
"""A fit of four steps and one validation."""


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    """Give a listening server; at the end of the test every operation it was asked for must have been a known one."""
    with WandbServer() as server:
        yield server
    assert server.store.unknown == []


@pytest.fixture(scope="session")
def tiny_fit() -> Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]:
    """Give a function that runs ``python -m moe_tune fit`` as a user does, and returns its folder and the process."""

    def fit(root: Path, environment: dict[str, str], *more: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        command = [sys.executable, "-m", "moe_tune", "fit", *TINY_FIT, "--runs_root", str(root), *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        (run,) = [path for path in root.iterdir() if path.is_dir()]
        return run, done

    return fit


@pytest.fixture(scope="session")
def offline_fit(tmp_path_factory: pytest.TempPathFactory, tiny_fit: Callable[..., Any]) -> Path:
    """Give the run directory of a tiny fit that W&B logged offline, with a server that nobody may call."""
    folder = tmp_path_factory.mktemp("offline_fit")
    with WandbServer() as server:
        run, _ = tiny_fit(folder / "runs", server.environment(folder, WANDB_MODE="offline"))
    assert not server.store.calls
    return Path(run)


def wandb_command(environment: dict[str, str], *words: str, timeout: float = 200) -> str:
    """Run the unmodified ``wandb`` command line and return all it said; it must exit 0.

    Args:
        environment: Of ``WandbServer.environment``.
        words: Its arguments.
        timeout: Seconds until it is ended.
    """
    # An agent starts `python` from PATH, which has to be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "wandb", *words],
        env=environment | {"PATH": path},
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
