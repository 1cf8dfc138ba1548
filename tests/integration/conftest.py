"""Finished fits on the nano model, made once and looked at by many tests."""

from pathlib import Path

import pytest
from tiny_runs import TINY, only_run
from wandb_server.fixtures import offline_fit, tiny_fit, wandb_server  # noqa: F401 - fixtures of these tests

from moe_tune.cli.main import main

SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="session")
def fit():
    """Give a function that fits nano with further arguments under a root, and returns the run directory."""

    def run(root: Path, *more: str) -> Path:
        assert main(["fit", *TINY, *SHORT, "--runs_root", str(root), *more]) == 0
        return only_run(root)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def untouched(tmp_path_factory, fit):
    """Give the run directory of the pretrained router: evaluated, nothing trained."""
    return fit(tmp_path_factory.mktemp("untouched"), "--config", "configs/head/identity.yaml")
