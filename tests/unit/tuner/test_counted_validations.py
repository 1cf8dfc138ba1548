"""The count of validations goes on from a checkpoint, also from one that had seen none."""

from types import SimpleNamespace

import pytest

from moe_tune.runs.checkpoint import COUNTED
from moe_tune.tuner.hooks import CountedValidations

VALIDATED = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=False)


@pytest.mark.parametrize(("state", "step", "before", "after"), [
    ({COUNTED: 0}, 2, {COUNTED: 0}, {COUNTED: 1}),
    ({COUNTED: 3}, 2, {COUNTED: 3}, {COUNTED: 4}),
    ({}, 2, {}, {}),
    (None, 2, {}, {}),
    (None, 0, {COUNTED: 0}, {COUNTED: 1}),
])  # fmt: skip
def test_the_count_goes_on_from_what_was_counted(state, step, before, after):
    """A checkpoint that did not count (no state, or one without a count) lets nothing be counted."""
    counted = CountedValidations()
    if state is not None:
        counted.load_state_dict(state)
    counted.on_train_start(SimpleNamespace(global_step=step), None)
    assert counted.state_dict() == before
    counted.on_validation_epoch_end(VALIDATED, None)
    assert counted.state_dict() == after
