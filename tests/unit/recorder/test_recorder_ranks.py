"""Two processes on gloo that each see half of the rows report what one reports that sees all."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from found_models import found_model
from plain_training import padded_batch

from moe_tune import RoutingRecorder, with_losses
from moe_tune.losses.z_loss import ZLoss

FORK = multiprocessing.get_context("fork")


def recorded(batch):
    model, _ = found_model("olmoe")
    model.train().requires_grad_(True)
    with RoutingRecorder(model) as recorder, with_losses(model, {"z": ZLoss()}) as added:
        if len(batch["input_ids"]):
            model(**batch)
        return recorder.step() | added.step()


def process(rank, parts, meet, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    results.put((rank, recorded(parts[rank])))
    dist.destroy_process_group()


@pytest.mark.parametrize("first", [2, 5], ids=["both", "one_without_a_batch"])
def test_sums_are_added_over_processes(first, tmp_path):
    batch, results = padded_batch(), FORK.Queue()
    parts = [{name: one[rows] for name, one in batch.items()} for rows in (slice(first), slice(first, None))]
    children = [FORK.Process(target=process, args=(rank, parts, tmp_path / "meet", results)) for rank in range(2)]
    for child in children:
        child.start()
    came = dict(results.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    assert came[0] == came[1]
    alone = recorded(batch)
    shared = {name: value for name, value in alone.items() if first == 5 or name != "routing/z"}
    assert {name: came[0][name] for name in shared} == pytest.approx(shared, abs=1e-6)
