"""A loader of batches that does not wait for ever for a worker process, and soon sees that one is lost."""

import os
import sys
import time
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from moe_tune.base.errors import ResourceError
from moe_tune.base.preemption import leave_to_parent
from moe_tune.base.resources import out_of_resources

PATIENCE = 300.0
"""Seconds after which a worker that gives no batch counts as hanging."""
LOOK = 2.0
"""Seconds between two looks at whether all workers are there."""


class PatientLoader(DataLoader[Any]):
    """A loader whose workers have so many seconds for a batch; without workers it is a plain one.

    Raises:
        ResourceError: A worker gave no batch in time.
        RuntimeError: A worker is lost.
    """

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return _PatientIterator(self) if self.num_workers else super()._get_iterator()


def begin_worker(index: int) -> None:
    """Leave signals to the parent, and end with a message where a batch cannot be handed over.

    A queue's own thread drops such a batch, and the parent would wait for it.

    Args:
        index: The worker's number.
    """
    leave_to_parent(index)
    sys.excepthook = _told
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _told(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, ConnectionError):  # the parent went while a thread handed it a batch
        sys.__excepthook__(kind, fault, trace)


def _end_worker(fault: BaseException, _: Any) -> None:
    os.write(2, f"moe_tune: a worker cannot hand over a batch: {' '.join(str(fault).split())[:300]}\n".encode())
    os._exit(ResourceError.exit_code if out_of_resources(fault) else 1)


class _PatientIterator(_MultiProcessingDataLoaderIter):
    _shutdown = True
    """Until there are workers, as a signal may come before; its destructor asks."""

    # The loader's own `timeout` looks at its workers only when it is over.
    def _get_data(self) -> Any:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            came, batch = self._try_get_data(LOOK)
            if came:
                return batch
        raise ResourceError(
            f"expected a batch within {PATIENCE:g} s but a worker gave none (data.num_workers). "
            "Hint: a machine with more memory or less load, or --data.num_workers 0."
        )
