"""Locks: one worker at a time, the second told who the first is, and never a wait for the dead."""

import errno
import fcntl
import multiprocessing
import os
import socket
import time

import pytest
from filelock import Timeout

from moe_tune.base import locks
from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import UNWRITTEN, WorkLock, cache_lock, forget_unwritten, holder

FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["flock", "none"])
def filesystem(request, monkeypatch):
    """Run with and without a filesystem that knows flock."""
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    if request.param == "none":

        def missing(*_):
            raise OSError(errno.ENOSYS, "no flock")

        monkeypatch.setattr(fcntl, "flock", missing)


def hold(target, inside):
    lock = WorkLock(target, "a run")
    lock.take()
    inside.set()
    time.sleep(60)


@pytest.fixture
def held(tmp_path):
    """Give a folder that another process works on, and that process."""
    inside = FORK.Event()
    child = FORK.Process(target=hold, args=(tmp_path / "run", inside))
    child.start()
    assert inside.wait(30)
    yield tmp_path / "run", child
    child.kill()
    child.join()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.usefixtures("filesystem")
class TestWorkLock:
    def test_the_second_is_told_who_works_there_since_when_and_what_to_do(self, held):
        folder, child = held
        with pytest.raises(ConfigError, match=r"since 20\d\d-.*Hint: mend it") as told:
            WorkLock(folder, "a run", "mend it").take()
        assert f"process {child.pid} on {socket.gethostname()}" in str(told.value)
        assert str(folder) in str(told.value)

    def test_what_a_killed_process_held_is_free(self, held):
        folder, child = held
        child.kill()
        child.join()
        with WorkLock(folder, "a run"):
            assert f'"pid": {os.getpid()},' in (folder.parent / ".locks" / "run.json").read_text()

    def test_a_lock_let_go_leaves_nothing_and_outlives_its_folder(self, tmp_path):
        with WorkLock(tmp_path / "run", "a run"), WorkLock(tmp_path / "other", "a run"):
            (tmp_path / "run").mkdir()
            (tmp_path / "run").rename(tmp_path / "run.old")
            with pytest.raises(ConfigError):
                WorkLock(tmp_path / "run", "a run").take()
        assert [path.name for path in tmp_path.iterdir()] == ["run.old"]

    def test_never_two_inside(self, tmp_path):
        children = [FORK.Process(target=enter_alone, args=(tmp_path / "run",)) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 3
        assert not (tmp_path / ".locks").exists()


def enter_alone(target):
    """Go in and out, and fail if ever somebody else is inside."""
    for _ in range(10):
        lock = WorkLock(target, "a run")
        while True:
            try:
                lock.take()
                break
            except ConfigError:
                continue
        os.close(os.open(target.with_name("inside"), os.O_CREAT | os.O_EXCL))
        time.sleep(0.001)
        target.with_name("inside").unlink()
        lock.let_go()


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_flock_the_number_of_a_process_elsewhere_means_nothing(tmp_path, monkeypatch):
    """Such a lock is another host's, or another container's of the same name, whose processes are numbered anew."""
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    elsewhere = f"{os.getpid() + 1_000_000}\n{socket.gethostname()}?pidns-1\n"
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".locks" / "run.json.lock").write_text(elsewhere)

    def missing(*_):
        raise OSError(errno.ENOSYS, "no flock")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(ConfigError):
        WorkLock(tmp_path / "run", "a run").take()


def write_marker(file, **changes):
    about = {"pid": 2**30, "host": "elsewhere", "mode": "lease", "token": "a" * 32, "duration": locks.LEASE} | changes
    file.write_text("filelock/2\n" + "".join(f"{key}={value}\n" for key, value in about.items()))


def test_a_builder_elsewhere_is_alive_until_its_heartbeat_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 0.5)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    file = tmp_path / "key.lock"
    write_marker(file)
    lock = cache_lock(tmp_path / "key")
    with pytest.raises(Timeout):
        lock.acquire(timeout=0.0)
    assert holder(lock) == f"process {2**30} on elsewhere"
    lock.acquire(timeout=30)
    assert holder(lock) == f"process {os.getpid()} on {socket.gethostname()}"
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_owner_of_a_cache_gives_signs_of_life_until_it_lets_go(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    file = tmp_path / "key.lock"
    with cache_lock(tmp_path / "key"):
        os.utime(file, (0, 0))
        until = time.monotonic() + 30
        while file.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0
    assert not file.exists()


def test_where_no_folder_can_be_made_it_is_said_and_not_tried_for_ever(tmp_path, monkeypatch):
    def nowhere(self, **_):
        raise FileNotFoundError(self.lock_file)

    monkeypatch.setattr("filelock.FileLock.acquire", nowhere)
    with pytest.raises(ConfigError, match="expected a place for a lock"):
        WorkLock(tmp_path / "x", "a folder").take()


@pytest.mark.parametrize(("content", "age", "kept"), [("", UNWRITTEN + 1, False), ("", 0.0, True), ("x", 1e6, True)])
def test_a_lock_of_a_cache_that_nobody_wrote_into_is_forgotten_after_a_while(tmp_path, content, age, kept):
    lock = cache_lock(tmp_path / "cache")
    file = tmp_path / "cache.lock"
    file.write_text(content)
    then = time.time() - age
    os.utime(file, (then, then))
    forget_unwritten(lock)
    assert file.exists() is kept
    assert list(tmp_path.iterdir()) == ([file] if kept else [])
    if not kept:
        lock.acquire(timeout=0.0)
        forget_unwritten(lock)
        assert lock.is_locked
        lock.release()
