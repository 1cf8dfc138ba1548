"""The build lock: never two owners, and never a wait for the dead."""

import ctypes
import itertools
import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import until

from moe_tune.answer_path import build_lock
from moe_tune.answer_path.build_lock import BuildLock, live_owner

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(build_lock, "POLL", 0.002)
    return tmp_path / "locks" / "key.lock"


@pytest.fixture(autouse=True)
def _folder(path):
    path.parent.mkdir()


def left_by_the_dead(path, **changes):
    """Leave the lock of a process that is no more."""
    child = FORK.Process(target=os.getpid)
    child.start()
    child.join()
    owner = {"pid": child.pid, "host": socket.gethostname(), "started": "1", "token": "dead"}
    path.write_text(json.dumps({**owner, **changes}))


def enter_alone(path, rounds):
    """Go in and out, and fail if ever somebody else is inside."""
    for _ in range(rounds):
        with BuildLock(path):
            os.close(os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL))
            for _ in range(100):  # long enough for another to come in, if it could
                os.sched_yield()
            path.with_name("inside").unlink()


@pytest.mark.parametrize("attempt", range(6))
def test_never_two_inside_even_when_all_take_over_from_the_dead(path, attempt):
    left_by_the_dead(path)
    children = [FORK.Process(target=enter_alone, args=(path, 4)) for _ in range(5)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 5
    assert list(path.parent.iterdir()) == [], "nothing is left behind"


def hold(path, inside):
    with BuildLock(path):
        inside.set()
        signal.pause()


def test_who_waits_says_so_once_and_goes_on_when_the_owner_is_killed(path, capsys, monkeypatch):
    inside = FORK.Event()
    child = FORK.Process(target=hold, args=(path, inside))
    child.start()
    inside.wait()
    assert live_owner(path).pid == child.pid
    looks = itertools.count(1)

    def pause(seconds):
        if next(looks) == 5:
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(seconds)

    monkeypatch.setattr(build_lock, "time", SimpleNamespace(sleep=pause, time=time.time))
    with BuildLock(path):
        assert live_owner(path).pid == os.getpid()
    child.join()
    assert next(looks) > 5, "it looked until the owner was killed"
    line = f"waiting for process {child.pid} on {socket.gethostname()}, which builds this cache\n"
    assert capsys.readouterr().err == line
    assert list(path.parent.iterdir()) == []


def hold_without_main_thread(path, inside):
    lock = BuildLock(path)
    lock.__enter__()
    inside.set()
    ctypes.CDLL(None).pthread_exit(None)  # the heartbeat's thread goes on


def test_a_process_lives_until_its_last_thread_has_ended(path):
    inside = FORK.Event()
    child = FORK.Process(target=hold_without_main_thread, args=(path, inside))
    child.start()
    inside.wait()
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    owner = live_owner(path)
    child.kill()
    child.join()
    assert owner is not None
    assert live_owner(path) is None


def test_the_dead_may_have_taken_over_from_the_dead(path):
    left_by_the_dead(path)
    left_by_the_dead(path.with_name("key.lock.dead"), token="dead too")
    assert live_owner(path) is None
    with BuildLock(path):
        assert live_owner(path).pid == os.getpid()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("silence", "alive"), [(0, True), (50, True), (70, False)])
@pytest.mark.parametrize("written", [True, False])
def test_elsewhere_only_the_heartbeat_tells(path, silence, alive, written):
    left_by_the_dead(path, host="elsewhere")
    if not written:
        path.write_text("")  # its process has only just created it, or died right then
    then = time.time() - silence
    os.utime(path, (then, then))
    assert (live_owner(path) is not None) == alive


def test_a_process_number_given_out_again_is_not_the_owner(path):
    left_by_the_dead(path, pid=os.getpid())
    assert live_owner(path) is None


def test_the_owner_gives_signs_of_life_until_it_lets_go(path, monkeypatch):
    monkeypatch.setattr(build_lock, "HEARTBEAT", 0.005)
    others = set(threading.enumerate())
    with BuildLock(path):
        (beat,) = set(threading.enumerate()) - others
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime != 0)
        assert time.time() - path.stat().st_mtime < 3600
    beat.join(120)
    assert not beat.is_alive(), "a lock let go is not kept alive"


def test_who_was_taken_for_dead_leaves_the_lock_to_its_successor(path):
    with BuildLock(path):
        token = live_owner(path).token
        left_by_the_dead(path.with_name(f"key.lock.{token}"), host="elsewhere")
    assert live_owner(path).host == "elsewhere"


def test_a_failure_inside_lets_go(path):
    with pytest.raises(KeyError), BuildLock(path):
        raise KeyError
    assert live_owner(path) is None
    assert list(path.parent.iterdir()) == []
