"""A loader of batches that does not wait for ever for a worker process."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from moe_tune.base.errors import ResourceError

PATIENCE = 300.0
"""Seconds after which a worker that gives no batch counts as hanging."""


class PatientLoader(DataLoader[Any]):
    """A loader whose workers have so many seconds for a batch; without workers it is a plain one.

    Raises:
        ResourceError: A worker gave no batch in time.
    """

    def __init__(self, dataset: Dataset[Any], num_workers: int = 0, **options: Any) -> None:
        options["timeout"] = PATIENCE if num_workers else 0.0
        super().__init__(dataset, num_workers=num_workers, **options)

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return _in_time(batches, self.timeout) if self.num_workers else batches


def _in_time(batches: Iterator[Any], patience: float) -> Iterator[Any]:
    try:
        yield from batches
    except RuntimeError as fault:
        if "timed out" not in str(fault):
            raise
        raise ResourceError(
            f"expected a batch within {patience:g} s but a worker gave none (data.num_workers). "
            "Hint: a machine with more memory or less load, or --data.num_workers 0."
        ) from fault
