"""Building by two processes: one computes for both, nobody waits in a collective for a lock, and disks must agree."""

import multiprocessing
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from moe_tune.answer_path import build
from moe_tune.answer_path.build import build_store
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import StorePlan, open_store
from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import cache_lock
from moe_tune.base.ranks import Ranks
from moe_tune.models.state_shape import StateShape

LENGTHS = torch.tensor([2, 1, 3, 2])
NONE = torch.full_like(LENGTHS, -1)
PLAN = StorePlan(StateShape(1, 2, (0,), 4, 1, 2, torch.float32), LENGTHS, NONE, torch.zeros(0).long(), LENGTHS)
COLLECTIVE_SECONDS = 5.0
FORK = multiprocessing.get_context("fork")


class Ones:
    prefixes = SimpleNamespace(prefix_Q=[-1] * 4)

    def batch(self, question_B):
        length_B = LENGTHS[list(question_B)]
        own = torch.ones(1, 2, len(length_B), 1, int(length_B.max()), 2)
        return PromptStates(torch.ones(len(length_B), 2, 4), own, length_B, NONE[question_B], {}, length_B)


def said_by_first(said):
    given = [said]
    dist.broadcast_object_list(given)
    return given[0]


def process(rank, folders, results):
    torch.set_num_threads(1)
    build.ASK_SECONDS = 0.2
    meet = f"file://{folders[0].parent.parent}/meet"
    dist.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=COLLECTIVE_SECONDS)
    )
    try:
        built = build_store(folders[rank], PLAN, {"split": "test"}, Ones(), Ranks(rank, 2, dist.barrier, said_by_first))
        results.put((rank, float(built.batch(range(4)).answer_BXD.sum())))
    except ConfigError as fault:
        results.put((rank, str(fault)))
    except RuntimeError as fault:
        results.put((rank, repr(fault)))


def built_by_two(*folders, meanwhile=lambda: None):
    results = FORK.Queue()
    children = [FORK.Process(target=process, args=(rank, folders, results)) for rank in range(2)]
    for child in children:
        child.start()
    meanwhile()
    came = dict(results.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    return [came[0], came[1]]


def test_nobody_waits_in_a_collective_for_another_jobs_lock(tmp_path, capfd):
    folder = tmp_path / "caches" / "key"
    folder.parent.mkdir()
    lock = cache_lock(folder)
    lock.acquire()

    def hold():
        time.sleep(1.2 * COLLECTIVE_SECONDS)
        lock.release()

    assert built_by_two(folder, folder, meanwhile=hold) == [32.0, 32.0]
    assert capfd.readouterr().err.count("which builds this cache") == 1
    assert open_store(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_processes_that_see_different_disks_are_told_so_at_once(tmp_path):
    folders = [tmp_path / "here" / "key", tmp_path / "there" / "key"]
    for said in built_by_two(*folders):
        assert "that all machines share" in said


@pytest.mark.parametrize("mine", [True, False])
def test_everywhere_is_said_by_one_process_for_itself(mine):
    from moe_tune.base.ranks import everywhere

    assert everywhere(mine) is mine
