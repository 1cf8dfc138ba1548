"""A few rows of the table of faults: one of each kind that an interrupted fit depends on."""

import pytest
from table import all_cases

from moe_tune.faults.table import tried

SAMPLE = {
    "F1": "SIGKILL at on_train_batch_start 3 of epoch 0, workers 0",
    "F2": "SIGKILL in a save, at its call 68",
    "F3": "SIGKILL in a save, at its call 253, TMPDIR on another filesystem",
    "F4": "SIGTERM at on_train_batch_start 5 of epoch 0, accumulation 4",
    "F5": "SIGTERM in validation",
    "F8": "SIGINT twice",
    "F12": "the gradient of one loss is NaN, its value is not",
    "F20": "last.ckpt: cut at 50%",
    "F21": "last.ckpt: NaN with right hashes",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLE)
def test_fault(kind):
    (case,) = (case for case in all_cases() if case.kind == kind and case.name == SAMPLE[kind])
    assert tried(case) == case.expected
