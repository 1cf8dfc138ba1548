"""Waiting for W&B, its service process and its server, but for so long only: nothing of a run depends on them."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


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
        except BaseException as fault:  # noqa: BLE001 (raised again where it is waited for)
            ended.set_exception(fault)

    Thread(target=run, daemon=True).start()
    try:
        return ended.result(timeout=seconds)
    except TimeoutError as fault:
        raise fault if ended.done() else TimeoutError(f"no answer within {seconds:g} s") from fault


def end_service() -> None:
    """End W&B's service process if it does not answer, so that neither this process nor its next run waits for it."""
    wandb = sys.modules["wandb"]
    connection = wandb.setup()._connection
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()
    with suppress(Exception, SystemExit):  # it complains that the service is gone
        within(2.0, wandb.teardown)
