"""Whatever becomes of W&B's server, a fit ends well, loses no number, and can be sent afterwards."""

import os
import re
import time

import pytest
from offline_runs import OfflineRun
from tiny_runs import history, manifest
from wandb_server.fixtures import wandb_command
from wandb_server.server import KEY, WandbServer

from moe_tune.tracking.wandb_logger import RouterWandbLogger, close_wandb_run

OUTAGES = {
    "unreachable": {},
    "slow": {"fault": "silent"},
    "unauthorised": {"fault": 401},
    "failing": {"fault": 500},
    "dying": {"dies_after_rows": 1},
}
LOST_AT_START = 10.0
"""Seconds that an outage may cost at the start."""


def lines(run):
    return history(run)


def numbers(run):
    return [
        {key: value for key, value in line.items() if "time" not in key and "second" not in key} for line in lines(run)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_fit_ends_well_and_can_be_sent_later(outage, offline_fit, tiny_fit, tmp_path):
    with WandbServer(**OUTAGES[outage]) as server:
        if outage == "unreachable":
            server.stop()
        # The last upload is given longer, which no server that is gone needs here.
        run, done = tiny_fit(tmp_path / "runs", server.environment(tmp_path, WANDB_FINISH_TIMEOUT="3"))
        assert not any(one.complete for one in server.store.runs.values())
    assert "Traceback" not in done.stderr
    assert manifest(run)["status"] == "finished"
    assert numbers(run) == numbers(offline_fit)

    if outage == "dying":
        assert server.gone.is_set()
        (command,) = re.findall(r"W&B failed, .* Hint: wandb (sync .*) sends the rest", done.stderr)
        (file,) = run.glob("wandb/run-*/run-*.wandb")
    else:
        (seconds,) = re.findall(r"W&B unreachable, continuing offline after ([\d.]+) s", done.stderr)
        assert float(seconds) <= LOST_AT_START
        (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
        command = f"sync {file.parent}"
    holders = [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == []

    with WandbServer() as healthy:
        wandb_command(healthy.environment(tmp_path), *command.split())
        assert healthy.store.unknown == []
    (sent,) = healthy.store.runs.values()
    assert len(sent.history) == len(OfflineRun(file).history) > 0
    assert sent.config["model.scope"] == "answer"
    last = lines(offline_fit)[-1]["validation/accuracy"]
    assert sent.summary["validation/accuracy"] == pytest.approx(last)
    assert any(name.startswith("media/images/") for name in sent.files)


@pytest.mark.slow
def test_a_server_that_never_answers_holds_up_the_start_for_ten_seconds_at_most(monkeypatch, tmp_path):
    import wandb

    wandb.teardown()  # what another test set up would go on with its server
    with WandbServer(**OUTAGES["slow"]) as server:
        for name in set(os.environ) - set(environment := server.environment(tmp_path)):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        took = {}
        for asked in ("offline", "online"):
            monkeypatch.setenv("WANDB_MODE", asked)
            logger = RouterWandbLogger(save_dir=str(tmp_path))
            begun = time.monotonic()
            assert logger.experiment.settings.mode == "offline"
            took[asked] = time.monotonic() - begun
            close_wandb_run(failed=False)
        wandb.teardown()
    assert took["online"] - took["offline"] <= LOST_AT_START
