"""Signals that ask the program to end: raised where it stands, or noted while that would cut something in two."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from moe_tune.base.errors import MoeTuneError

AGAIN, AT_ONCE = os.EX_TEMPFAIL, 128 + signal.SIGINT
"""Exit codes: the same command goes on (75), and a second Ctrl-C (130)."""
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What ends the program: a scheduler's request, the keyboard's, and a batch system's warning."""

SOON = 0.05
"""Seconds after which it is tried again to end."""
NOT_WITHIN = ("__del__", "_shutdown_workers", "_acquireLock", "_releaseLock")
"""Functions in which nothing is raised: Python drops it, a data loader would take its workers for lost, and logging's
lock would stay held after a fork."""
KILLED_WITH_PARENT = 1
"""Linux's PR_SET_PDEATHSIG."""


class Preempted(SystemExit):
    """The program was asked to end and did so in good order; the same command goes on.

    Args:
        signal_name: Which signal asked.
        told: Where it stood and what is kept.
    """

    def __init__(self, signal_name: str, told: str = "") -> None:
        super().__init__(AGAIN)
        self.signal_name, self.told = signal_name, told


class Aborted(SystemExit):
    """The keyboard asked twice: nothing more is kept."""

    def __init__(self) -> None:
        super().__init__(AT_ONCE)


class _Heard:
    """What was heard in this process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.name: str | None = None
        self.holding = 0
        self.aborted = self.raised = False


_heard = _Heard()


@contextmanager
def listening() -> Iterator[None]:
    """Hear signals for as long as the context lasts; outside the main thread, where Python hears none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _heard.process, _heard.name, _heard.holding = os.getpid(), None, 0
    _heard.aborted = _heard.raised = False
    before = {number: signal.signal(number, _hear) for number in HEARD}
    stock = sys.unraisablehook

    def dropped(fault: "sys.UnraisableHookArgs") -> None:
        if issubclass(fault.exc_type, Preempted | Aborted):  # raised where Python cannot pass it on, as after a fork
            _try_later()
        else:
            stock(fault)

    sys.unraisablehook = dropped
    try:
        yield
    except Exception as fault:
        if not in_place_of_signal(fault):
            raise
        raise Preempted(str(_heard.name)) from fault
    finally:
        sys.unraisablehook, _heard.name, _heard.raised = stock, None, False
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if signal.getsignal(signal.SIGALRM) is _later:  # nobody listens any more
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Note a signal instead of raising it; who holds looks at ``asked`` where it can end in good order."""
    _heard.holding += 1
    try:
        yield
    finally:
        _heard.holding -= 1


def asked() -> str | None:
    """Return the name of the signal that has asked for the end; ``None`` if none has."""
    return _heard.name


def in_place_of_signal(fault: BaseException) -> bool:
    """Return whether a signal was raised and a library has put a fault of its own in its place."""
    return _heard.raised and not isinstance(fault, MoeTuneError)


def leave_to_parent(_: int = 0) -> None:
    """Leave to its parent what a data loader's worker hears, too: keyboards and batch systems signal all processes.

    SIGTERM ends it all the same, as that is how its parent does; and it ends with its parent, at once where that is
    killed on Linux.
    """
    for number in HEARD:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if sys.platform == "linux" and parent is not None and os.getppid() == parent.pid:  # not a server that forks
        ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, signal.SIGKILL)


def keyboard_ends() -> None:
    """Let Ctrl-C end a process that does not listen yet, or no more, without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def keyboard_is_late() -> None:
    """Let Ctrl-C change nothing more: the exit code is settled, and what is left is to go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def let_workers_go() -> None:
    """Let workers end with the program; torch would take those that are ended at its end for lost, with a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end_here(frame: FrameType | None) -> None:
    """Raise, or a moment later where it would be swallowed."""
    if not _swallows(frame):
        _heard.raised = True
        raise Aborted if _heard.aborted else Preempted(str(_heard.name))
    _try_later()


def _try_later() -> None:
    signal.signal(signal.SIGALRM, _later)
    signal.setitimer(signal.ITIMER_REAL, SOON)


def _later(_: int, frame: FrameType | None) -> None:
    if _heard.aborted or not _heard.holding:
        _end_here(frame)


def _swallows(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in NOT_WITHIN:
            return True
        frame = frame.f_back
    return False


def _hear(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _heard.process:  # a forked child has inherited this handler
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    name = signal.Signals(number).name
    first = _heard.name is None
    if number == signal.SIGINT and _heard.name == name:
        _heard.aborted = True
        _end_here(frame)
        return
    _heard.name = _heard.name or name
    if not first:
        if number == signal.SIGINT:  # the keyboard is more urgent than a scheduler
            _heard.name = name
        return
    if not _heard.holding:
        _end_here(frame)
        return
    again = "; press again to abort" if number == signal.SIGINT else ""
    os.write(2, f"moe_tune: {name}: stops after this step{again}\n".encode())
