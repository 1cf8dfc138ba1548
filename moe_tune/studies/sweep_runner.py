"""Running a sweep's points, one after the other in this process or several in processes; interrupted, it goes on."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

from moe_tune.base.errors import MoeTuneError
from moe_tune.settings.running import run
from moe_tune.settings.workbench import Workbench
from moe_tune.studies.sweep_file import Sweep
from moe_tune.studies.sweep_points import Status, SweepPoint, load_points, save_points
from moe_tune.studies.sweep_search import Hyperband, next_values

Execute = Callable[[Sweep, Path, SweepPoint, dict[str, str]], tuple[Status, str]]
"""Runs a point and returns how it ended, and why if it failed."""


class InThisProcess(Executor):
    """An executor that has done what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Call the function and keep what came of it; an interruption is raised here."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as fault:
            done.set_exception(fault)
        return done


def run_sweep(
    sweep: Sweep,
    folder: Path,
    execute: Execute,
    *,
    count: int | None,
    seed: int = 0,
    workers: int = 1,
    plugins: dict[str, str] | None = None,
) -> list[SweepPoint]:
    """Run a sweep until it has no point left or ``count`` of them (``None``: all of a grid), and return the points.

    A point is written down before it is run and after it has ended, so that a process killed at any time loses and
    repeats none: the next call runs what was running, from its last checkpoint. A point that raises has failed, as
    have all that were running when a process was lost, of which nobody knows whose it was.
    """
    points = load_points(folder)
    unfinished = [point for point in points if point.status == "running"]
    waiting: dict[Future[tuple[Status, str]], SweepPoint] = {}
    executor = _executor(workers, plugins or {})
    try:
        while True:
            while len(waiting) < workers:
                point = unfinished.pop(0) if unfinished else _proposed(sweep, folder, points, count, seed)
                if point is None:
                    break
                waiting[executor.submit(execute, sweep, folder, point, plugins or {})] = point
            if not waiting:
                return points
            done = wait(waiting, return_when=FIRST_COMPLETED).done
            if lost := any(isinstance(future.exception(), BrokenExecutor) for future in done):
                done = wait(waiting).done
            for future in done:
                point = waiting.pop(future)
                fault = future.exception()
                why = f"{type(fault).__name__}: {' '.join(str(fault).split())}"
                point.status, point.note = ("failed", why) if fault else future.result()
            save_points(folder, points)
            if lost:
                executor.shutdown()
                executor = _executor(workers, plugins or {})
    finally:
        executor.shutdown()


def run_point(
    sweep: Sweep, folder: Path, point: SweepPoint, plugins: dict[str, str], workbench: Workbench | None = None
) -> tuple[Status, str]:
    """Fit one point on what this process has loaded; a fault that the user can mend fails the point, not the sweep.

    Args:
        sweep: The sweep.
        folder: Its folder.
        point: The point.
        plugins: sha256 of the plug-in files, by path.
        workbench: What the runs of this process share; ``None`` is what all its points share.
    """
    ended = point.ended(folder)  # killed between the end of the run and its being written down
    if ended is None:
        own = [f"--runs_root={point.root(folder)}", "--test_after_fit=false", "--trainer.enable_progress_bar=false"]
        watchers = [Hyperband(sweep, folder, point.index)] if "early_terminate" in sweep.config else []
        try:
            run(["fit", *sweep.arguments(point.values), *own], plugins, workbench or _workbench(), watchers)
        except MoeTuneError as fault:
            return "failed", str(fault)
        ended = point.ended(folder)
    return ended or "failed", "" if ended else "the run ended without saying how"


def _proposed(sweep: Sweep, folder: Path, points: list[SweepPoint], count: int | None, seed: int) -> SweepPoint | None:
    enough = count is not None and len(points) >= count
    values = None if enough else next_values(sweep, points, folder, seed)
    if values is None:
        return None
    points.append(SweepPoint(len(points), values))
    save_points(folder, points)
    return points[-1]


def _executor(workers: int, plugins: dict[str, str]) -> Executor:
    if workers == 1:
        return InThisProcess()
    # A forked process cannot use threads or a GPU that its parent has touched.
    fresh = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(workers, fresh, initializer=_begin, initargs=(threads, list(plugins)))


def _begin(threads: int, plugins: list[str]) -> None:
    import torch

    from moe_tune.base.plugins import load_plugin_files

    torch.set_num_threads(threads)
    load_plugin_files(plugins)


@cache
def _workbench() -> Workbench:
    """The model, the prompts and the data that all points of a process share."""
    return Workbench()
