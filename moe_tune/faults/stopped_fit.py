"""A small fit that is stopped somewhere, and the same command again: what both did, and whether bits are the same."""

import functools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_tune.faults.same_run import only_run, unlike
from moe_tune.faults.trial import Ended, Trial

SMALL = (
    *("fit", "--config", "nano", "--config", "debug/tiny", "--config", "logger/none"),
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"),
    *("--data.limit_train=96", "--checkpoint_every.steps=1", "--runs_root=runs"),
)
"""Two epochs of six batches that save after every step."""

_undisturbed: dict[tuple[str, ...], tuple[threading.Lock, list[Path]]] = {}
_guard = threading.Lock()
_folders: list[tempfile.TemporaryDirectory[str]] = []


def undisturbed(argv: Sequence[str]) -> Path:
    """Return the run of a command that nothing disturbs, which is run once per process."""
    with _guard:
        lock, found = _undisturbed.setdefault(tuple(argv), (threading.Lock(), []))
    with lock:
        if not found:
            folder = tempfile.TemporaryDirectory(prefix="moe_tune-undisturbed-", ignore_cleanup_errors=True)
            _folders.append(folder)
            ended = Trial(Path(folder.name)).run(argv)
            if ended.code:
                raise RuntimeError(f"undisturbed: code {ended.code} {ended.err[-300:]}")
            found.append(only_run(Path(folder.name) / "runs"))
    return found[0]


def stop_at_batch(number: int, batch: int, epoch: int = 0, hook: str = "on_train_batch_start") -> Callable[[], None]:
    """Return what lets the first process of a folder send itself a signal at a hook of a fit.

    Args:
        number: The signal.
        batch: Index of the batch in its epoch.
        epoch: Index of the epoch.
        hook: Hook of ``LightningModule`` or ``Callback`` that gets trainer, module and more.
    """
    return functools.partial(_arm, number, batch, epoch, hook)


def _arm(number: int, batch: int, epoch: int, hook: str) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.trainer import call

    done, hooks = Path("stopped"), call._call_callback_hooks

    def calls(trainer: Trainer, name: str, *args: object, **kwargs: object) -> None:
        index = next((one for one in reversed(args) if isinstance(one, int)), 0)
        here = name == hook and index == batch and trainer.current_epoch == epoch
        if here and not done.exists():
            done.touch()
            os.kill(os.getpid(), number)
        hooks(trainer, name, *args, **kwargs)

    call._call_callback_hooks = calls


def stopped_and_again(trial: Trial, argv: Sequence[str], before: Callable[[], None]) -> tuple[Ended, Ended, list[str]]:
    """Return how a fit ended that something stops, how the same command did, and in what it differs from neither."""
    first, again = trial.run(argv, before=before), trial.run(argv)
    off = [] if again.code else unlike(only_run(trial.folder / "runs"), undisturbed(argv))
    return first, again, off


def code_of(number: signal.Signals) -> int:
    """Return the exit code that a signal has to end a fit with."""
    return 128 + number if number == signal.SIGKILL else os.EX_TEMPFAIL
