"""Whatever W&B's server or its service does, the run goes on: with one warning, and offline."""

import os
import socket
import subprocess
import sys

import pytest

from moe_tune.base.errors import ConfigError
from moe_tune.tracking.wandb_logger import RouterWandbLogger, begun_online, close_wandb_run, wandb_mode

KEY = "a1" * 20
SCRIPT = """
import os, signal, subprocess, sys
from moe_tune.tracking.wandb_logger import RouterWandbLogger, begun_online, close_wandb_run
logger = RouterWandbLogger(save_dir=".", tags=["https://user:hunter2@example.org"])
logger.log_hyperparams({"model.scope": "answer"})
logger.log_metrics({"test/accuracy": 0.5}, step=1)
if "kill" in sys.argv:
    (child,) = subprocess.run(["pgrep", "-f", "-P", str(os.getpid()), "wandb"], capture_output=True).stdout.split()
    os.kill(int(child), signal.SIGKILL)
    for step in range(3):
        logger.log_metrics({"test/accuracy": 0.5}, step=step)
        logger.log_table("table", columns=["a"], data=[[1]])
        logger.log_hyperparams({"x": step})
close_wandb_run(failed=False)
print("the run ended")
"""


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return monkeypatch


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Give what became of a little logging in processes of their own, by what was wrong, and where they wrote."""
    online = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}
    # It takes connections and never answers.
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        cases = {
            "refused": {**online, "WANDB_BASE_URL": "http://127.0.0.1:9"},
            "black hole": {**online, "WANDB_BASE_URL": f"http://127.0.0.1:{black_hole.getsockname()[1]}"},
            "kill": {"WANDB_MODE": "offline"},
        }
        started = {}
        for case, variables in cases.items():
            folder = tmp_path_factory.mktemp(case.replace(" ", "_"))
            kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
            quiet = {"HOME": str(folder), "PYTHONPATH": os.getcwd(), "WANDB_ERROR_REPORTING": "false"}
            quiet |= {"WANDB_FINISH_TIMEOUT": "2", "WANDB_INIT_TIMEOUT": "1"}
            command = [sys.executable, "-c", SCRIPT, case]
            started[case] = (
                folder,
                subprocess.Popen(command, cwd=folder, env=kept | quiet | variables, stdout=-1, stderr=-1, text=True),
            )
        results = {}
        for case, (folder, process) in started.items():
            try:
                out, err = process.communicate(timeout=300)
            finally:
                process.kill()
            results[case] = folder, process.returncode, out, err
        yield results


@pytest.mark.parametrize("case", ["refused", "black hole", "kill"])
def test_neither_server_nor_service_can_stop_a_run(ended, case):
    _, code, out, err = ended[case]
    assert code == 0, err
    assert "the run ended" in out
    assert "Traceback" not in err or case == "kill"  # that of wandb's own reader thread


@pytest.mark.parametrize("case", ["refused", "black hole"])
def test_a_server_that_cannot_be_reached_costs_one_warning_and_nothing_logged(ended, case):
    folder, _, _, err = ended[case]
    assert err.count("W&B unreachable, continuing offline") == 1
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"test/accuracy" in content
    assert b"[removed]@example.org" in content
    assert b"hunter2" not in content


def test_a_service_that_dies_costs_one_warning_while_logging(ended):
    *_, err = ended["kill"]
    assert err.count("the run goes on") == 1


def test_online_without_a_key_is_one_warning_and_offline(clean, caplog, tmp_path):
    clean.setenv("WANDB_MODE", "online")
    logger = RouterWandbLogger(save_dir=str(tmp_path))
    assert logger.experiment.settings.mode == "offline"
    close_wandb_run(failed=False)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "continuing offline" in record.message


def test_disabled_writes_nothing_and_says_nothing(clean, caplog, tmp_path):
    clean.setenv("WANDB_MODE", "disabled")
    logger = RouterWandbLogger(save_dir=str(tmp_path))
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_table("table", columns=["a"], data=[[1]])
    close_wandb_run(failed=False)
    assert not list(tmp_path.iterdir())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def netrc_for(folder, host):
    (folder / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    (folder / ".netrc").chmod(0o600)


@pytest.mark.parametrize(
    ("asked", "without_key", "with_key"),
    [
        (None, "offline", "online"),
        ("", "offline", "online"),
        ("online", "offline", "online"),
        ("run", "offline", "online"),
        ("offline", "offline", "offline"),
        ("dryrun", "offline", "offline"),
        ("disabled", "disabled", "disabled"),
    ],
)
def test_the_mode_is_what_was_asked_for_and_online_only_with_a_key(clean, asked, without_key, with_key):
    if asked is not None:
        clean.setenv("WANDB_MODE", asked)
    assert wandb_mode() == without_key
    assert wandb_mode() != "online"
    clean.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode() == with_key


def test_a_login_counts_for_the_server_in_use_only(clean, tmp_path):
    netrc_for(tmp_path, "wandb.example.org:8080")
    assert wandb_mode() != "online"
    clean.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert wandb_mode() == "online"
    clean.delenv("WANDB_BASE_URL")
    netrc_for(tmp_path, "api.wandb.ai")
    assert wandb_mode() == "online"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WANDB_MODE", "onlin"),
        ("WANDB_INIT_TIMEOUT", "soon"),
        ("WANDB_FINISH_TIMEOUT", "never"),
        ("WANDB_BASE_URL", "garbage"),
    ],
)
def test_a_variable_with_a_fault_is_one_message(clean, variable, value):
    clean.setenv(variable, value)
    with pytest.raises(ConfigError, match=value):
        RouterWandbLogger()


@pytest.mark.parametrize("words", [["fit"], ["--plugins=mine.py", "fit"]])
def test_a_fit_is_one_with_plug_in_files_too(clean, tmp_path, words):
    clean.setattr("sys.argv", ["moe_tune", *words])
    assert RouterWandbLogger(save_dir=str(tmp_path))._wandb_init["job_type"] == "fit"


def test_an_offline_run_leaves_the_environment_alone(clean, tmp_path):
    before = dict(os.environ)
    logger = RouterWandbLogger(save_dir=str(tmp_path))
    assert logger.experiment.settings.mode == "offline"
    close_wandb_run(failed=False)
    # wandb itself keeps the address of its service process there
    assert {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} == before


def test_a_fit_that_goes_on_is_the_same_run_where_it_was_online(clean, tmp_path):
    for name in ("offline-run-20261128_010101-early", "run-20261128_020202-first", "run-20261128_030303-last-one"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert begun_online(str(tmp_path)) == "last-one"
    assert begun_online(str(tmp_path / "elsewhere")) is begun_online(None) is None
    clean.setenv("WANDB_API_KEY", KEY)
    clean.setattr(sys, "argv", ["moe_tune", "fit"])
    assert RouterWandbLogger(save_dir=str(tmp_path))._wandb_init["id"] == "last-one"
    clean.setenv("WANDB_RUN_ID", "of-the-agent")
    assert begun_online(str(tmp_path)) is None
