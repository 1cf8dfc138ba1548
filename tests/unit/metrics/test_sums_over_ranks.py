"""Sums over processes, on a backend that knows the GPU alone."""

import torch
import torch.distributed

from moe_tune.base import ranks


def test_a_sum_goes_by_way_of_the_gpu_where_the_backend_wants_that(monkeypatch):
    on_gpu = []

    def cuda(value):
        on_gpu.append(value.clone())
        return on_gpu[-1]

    def all_reduce(value):
        assert any(value is one for one in on_gpu), "NCCL refuses tensors of the CPU"
        value.mul_(2)

    monkeypatch.setattr(ranks, "several_ranks", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.Tensor, "cuda", cuda)
    value = torch.tensor([3.0, 4.0], dtype=torch.float64)
    total = ranks.summed_over_ranks(value)
    assert total.tolist() == [6, 8]
    assert total.device == value.device
    assert value.tolist() == [3, 4], "what was given stays as it is"


def test_a_sum_stays_where_it_is_on_other_backends(monkeypatch):
    monkeypatch.setattr(ranks, "several_ranks", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.mul_(2))
    value = torch.tensor([3.0])
    assert ranks.summed_over_ranks(value).tolist() == [6]
    assert value.tolist() == [3]
