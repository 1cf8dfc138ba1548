"""CSV and TensorBoard loggers work by configuration, into the run directory."""

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FIGURES = ("usage", "accuracy", "entropy", "scatter")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("csv", "**/metrics.csv"), pytest.param("tensorboard", "**/events.out.tfevents.*", marks=pytest.mark.slow)],
)
def test_loggers_write_into_the_run_directory(name, pattern, fit, tmp_path):
    run = fit(tmp_path, "--config", f"configs/logger/{name}.yaml", "--trainer.max_epochs", "1")
    (file,) = [path for path in run.glob(pattern) if path.stat().st_size > 0][:1]
    if name == "csv":
        table = pd.read_csv(file)
        assert table["test/accuracy"].notna().any()
        assert table["validation/entropy_topk"].notna().any()
        assert table["base_validation/accuracy"].notna().sum() == 1
    else:
        events = EventAccumulator(str(file.parent)).Reload()
        drawn = {f"{split}/{name}_figure" for split in ("validation", "test") for name in FIGURES}
        assert drawn <= set(events.Tags()["images"])
        assert "base_validation/accuracy" in events.Tags()["scalars"]
