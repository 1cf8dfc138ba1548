"""Signals end the program where that is safe: at once, or when who holds them has looked."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import until

from moe_tune.base.preemption import AGAIN, AT_ONCE, Aborted, Preempted, asked, held, leave_to_parent, listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_raised_at_once_unless_it_is_held(number):
    before = signal.getsignal(number)
    with listening():
        with pytest.raises(Preempted) as raised:
            os.kill(os.getpid(), number)
        assert (raised.value.code, raised.value.signal_name) == (AGAIN, number.name)
    with listening(), held():
        assert asked() is None
        os.kill(os.getpid(), number)
        assert asked() == number.name
    assert signal.getsignal(number) is before


def test_the_keyboard_aborts_at_its_second_word_and_a_scheduler_does_not():
    with listening(), held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Aborted) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.code == AT_ONCE


def test_a_signal_within_a_destructor_is_heard_when_it_is_over():
    """Python drops what is raised in one, and the program would go on."""

    class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            over.append(True)

    def ends():
        Ends()
        time.sleep(5)

    over = []
    with listening(), pytest.raises(Preempted):
        ends()
    assert over
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


@pytest.mark.parametrize(("signals", "raised"), [(1, Preempted), (2, Aborted)])
def test_a_signal_that_python_drops_where_it_comes_is_heard_a_moment_later(signals, raised, capsys):
    """As in what is called back at the end of an object, or after a fork."""

    def called_back(_):
        for _ in range(signals):
            with suppress(Preempted if signals == 2 and asked() is None else ()):
                os.kill(os.getpid(), signal.SIGINT)

    def ends():
        one = Thing()
        kept.append(weakref.ref(one, called_back))
        del one
        time.sleep(5)

    class Thing:
        pass

    kept = []
    with listening(), pytest.raises(raised):
        ends()
    assert "Exception ignored" not in capsys.readouterr().err


def test_a_fault_that_a_library_puts_in_the_place_of_the_signal_is_still_the_signal():
    def replaces():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise ValueError("Invalid bounding box") from None

    with pytest.raises(Preempted) as raised, listening():
        replaces()
    assert raised.value.signal_name == "SIGTERM"
    assert asked() is None
    with pytest.raises(ValueError, match="mine"), listening():
        raise ValueError("mine")


def test_a_fault_after_a_signal_that_is_held_is_the_runs_own():
    def fails():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), listening(), held():
        fails()


def works(pid):
    leave_to_parent()
    pid.value = os.getpid()
    time.sleep(60)


def has_worker(pid):
    multiprocessing.get_context("fork").Process(target=works, args=(pid,)).start()
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own")
def test_a_worker_ends_with_its_parent_that_is_killed():
    context = multiprocessing.get_context("fork")
    pid = context.Value("i", 0)
    parent = context.Process(target=has_worker, args=(pid,))
    parent.start()
    until(lambda: pid.value, 20)
    time.sleep(0.1)
    assert is_there(pid.value)
    parent.kill()
    parent.join()
    until(lambda: not is_there(pid.value), 2)


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_put_off_ends_with_the_listening():
    class Ends:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with listening():
        Ends()
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


LEAVES = """
import torch
from moe_tune.base.preemption import let_workers_go, leave_to_parent

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        import time
        time.sleep(0.2)
        return index

kept = iter(torch.utils.data.DataLoader(Slow(), num_workers=2, worker_init_fn=leave_to_parent))
next(kept)
torch.kept = kept  # as a trainer's loops keep it, so that no destructor ends the workers first
let_workers_go()
raise SystemExit(6)
"""


def test_a_program_that_ends_while_its_workers_work_says_nothing_of_them():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", LEAVES], **pipes) for _ in range(4)]  # it says so now and then
    said = [one.communicate(timeout=120)[1] for one in started]
    assert ([one.returncode for one in started], said) == ([6] * 4, [""] * 4)


@pytest.mark.parametrize(("moment", "code"), [("before", -signal.SIGINT), ("after", 0)])
def test_the_keyboard_leaves_no_traceback_before_and_after_the_program_listens(moment, code):
    words = (
        "import os, signal; from moe_tune.base.preemption import *; keyboard_ends(); "
        "now = lambda: os.kill(os.getpid(), signal.SIGINT); "
    )
    words += "now()" if moment == "before" else "exec('with listening(): pass'); keyboard_is_late(); now()"
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, "")
