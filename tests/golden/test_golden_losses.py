"""Every step of short nano fits has the loss it had: the same bits on the same kind of machine, else to 1e-4."""

import json

import pytest
from golden_losses import FILE, TOLERANCE, here, losses

GOLDEN = json.loads(FILE.read_text())


def test_every_step_has_the_loss_it_had(tmp_path):
    came, wanted = losses(tmp_path), GOLDEN["losses"]
    if here() == GOLDEN["where"]:
        assert came == wanted, "the same bits where processor, torch and threads are the same"
    assert came.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert [row.keys() for row in came[name]] == [row.keys() for row in rows]
        for row, other in zip(rows, came[name], strict=True):
            assert other == pytest.approx(row, rel=TOLERANCE, abs=TOLERANCE), name
