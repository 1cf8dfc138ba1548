"""Waiting for W&B ends, and what its service process gave up on is found in its log."""

import time
from types import SimpleNamespace

import pytest

from moe_tune.tracking.patience import refused_by_server, within


def test_work_is_waited_for_and_its_faults_are_raised():
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)


def test_work_that_takes_too_long_is_left_to_itself():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        within(0.05, lambda: time.sleep(5))
    assert time.monotonic() - begun < 4


def test_a_timeout_of_the_work_itself_is_its_own():
    def late():
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        within(5, late)


def test_what_the_server_refused_is_found_in_the_log(tmp_path):
    log = tmp_path / "debug-internal.log"
    run = SimpleNamespace(settings=SimpleNamespace(log_internal=str(log)))
    assert refused_by_server(run) is None
    log.write_text('{"level":"INFO","msg":"filestream: request sent","status":"200 OK"}\n')
    assert refused_by_server(run) is None
    with log.open("a") as file:
        file.write(
            '{"level":"ERROR+4","msg":"filestream: fatal error: filestream: failed: 401 Unauthorized url=http://me:x@h/"}\n'
        )
    assert refused_by_server(run) == "filestream: failed: 401 Unauthorized"
