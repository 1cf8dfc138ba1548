"""A worker that cannot hand a batch over ends with its reason, and is not waited for."""

import resource
import time

import pytest
import torch
from torch.utils.data import Dataset

from moe_tune.base.errors import ResourceError
from moe_tune.base.resources import told_fault
from moe_tune.data.patient_loader import PatientLoader, begin_worker


class TooLarge(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))  # as shared memory that is full
        return torch.zeros(10_000)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_worker_without_shared_memory_is_told_of_at_once(batch_size, capfd):
    options = {"num_workers": 1, "worker_init_fn": begin_worker, "multiprocessing_context": "fork"}
    loader = PatientLoader(TooLarge(), batch_size=batch_size, **options)
    begun = time.monotonic()
    with pytest.raises(RuntimeError) as raised:
        next(iter(loader))
    assert time.monotonic() - begun < 60
    assert isinstance(told_fault(raised.value), ResourceError)
    assert ("cannot hand over a batch" in capfd.readouterr().err) is (batch_size is None)  # a whole one comes as it is


def test_an_iterator_that_was_not_finished_says_nothing_when_it_goes(monkeypatch, capfd):
    loader = PatientLoader(TooLarge(), num_workers=1, worker_init_fn=begin_worker)

    def stopped(*_):
        raise SystemExit(75)

    monkeypatch.setattr("torch.utils.data.dataloader._BaseDataLoaderIter.__init__", stopped)
    with pytest.raises(SystemExit):
        iter(loader)
    assert capfd.readouterr().err == ""
