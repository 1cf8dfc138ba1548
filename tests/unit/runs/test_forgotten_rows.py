"""A resumed fit forgets the numbers that it logs again, and no others."""

import json

import pytest

from moe_tune.runs.metrics_file import MetricsFile

ROWS = (
    *({"step": 0, "base_validation/loss": 1.0}, {"step": 0, "train/loss": 1.0}, {"step": 1, "train/loss": 0.9}),
    *({"step": 1, "validation/loss": 0.8}, {"step": 1, "validation_text/loss": 4.0}, {"step": 2, "train/loss": 0.7}),
)


@pytest.mark.parametrize(("step", "validations", "kept"), [(2, 1, 5), (2, 0, 3), (1, 0, 2), (2, None, 5), (3, 1, 6)])
def test_rows_of_steps_and_validations_that_are_done_again_go(tmp_path, step, validations, kept):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"step": 3, "tra')
    MetricsFile(tmp_path).forget_from(step, validations)
    assert [json.loads(line) for line in file.read_text().splitlines()] == list(ROWS[:kept])
