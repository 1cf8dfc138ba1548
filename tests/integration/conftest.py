"""A finished fit on the nano model, made once and looked at by many tests."""

from pathlib import Path

import pytest
from wandb_server.fixtures import offline_fit, tiny_fit, wandb_server  # noqa: F401 - fixtures of these tests

from moe_tune.cli.main import main

NANO = [
    *("--config", "configs/nano.yaml", "--config", "configs/debug/tiny.yaml"),
    *("--config", "configs/logger/none.yaml", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
]


def only_run(root: Path) -> Path:
    (run,) = [path for path in root.iterdir() if path.is_dir()]
    return run


@pytest.fixture(scope="session")
def fit():
    """Give a function that fits nano with further arguments under a root, and returns the run directory."""

    def run(root: Path, *more: str) -> Path:
        assert main(["fit", *NANO, "--runs_root", str(root), *more]) == 0
        return only_run(root)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, fit):
    return fit(tmp_path_factory.mktemp("finished"))
