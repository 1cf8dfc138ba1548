"""Waiting for W&B, its service process and its server, but for so long only: nothing of a run depends on them."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")
TEARDOWN_SECONDS = 2.0
"""How long the service process may take to end."""

GIVEN_UP = "filestream: fatal error:"
LONGEST_REASON = 200


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Return what some work returns, or raise what it raises; after the time it is left to itself.

    Args:
        seconds: How long it may take.
        work: What is done in another thread, which does not keep the process from ending.

    Raises:
        TimeoutError: It took longer.

    Example:
        >>> within(5, lambda: 1 + 1)
        2
    """
    ended: Future[Result] = Future()

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as fault:
            ended.set_exception(fault)

    Thread(target=run, daemon=True).start()
    try:
        return ended.result(timeout=seconds)
    except TimeoutError as fault:
        raise fault if ended.done() else TimeoutError(f"no answer within {seconds:g} s") from fault


def refused_by_server(run: Any) -> str | None:
    """Return why the server did not take what a run had to send; ``None`` if it took it, or nothing says so.

    W&B's service process gives up without an error then, and leaves the reason in its log.
    """
    log = getattr(run.settings, "log_internal", None)  # a setting that is not promised to stay
    try:
        lines = Path(log or "").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if GIVEN_UP in line:
            return line.partition(GIVEN_UP)[2].split(" url=")[0].strip(' "}')[:LONGEST_REASON]
    return None


def end_service() -> None:
    """End W&B's service process, killed if it does not answer: neither this process nor its next run waits for it."""
    wandb = sys.modules["wandb"]
    connection = wandb.setup()._connection
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    try:
        within(TEARDOWN_SECONDS, wandb.teardown)
    except TimeoutError:
        if process is not None:
            process.kill()
    except (Exception, SystemExit):
        return  # it complains that the service is gone
