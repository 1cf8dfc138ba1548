"""What cfcf61f was asked for to make the runs, names and prompt caches in ``old/``, and what is read of them.

Nothing makes them anew: they are what its users have on their disks. ``write_old.py``, which did, is in the history.
"""

import json
from pathlib import Path

OLD = Path(__file__).with_name("old")
PLUGIN = ["--plugins", "old_head.py"]

NANO = [
    *("--config", "configs/nano.yaml", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
    *("--model.base.experts_implementation=grouped_mm", "--data.test_protocols=[]", "--data.batch_size=16"),
    *("--data.source.train=64", "--data.source.validation=64", "--data.source.test=64"),
]
TRAINED = ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.3", "--optimizer.momentum=0.9", "--model.layers=last-1"]
SILENT = ["--config", "configs/logger/none.yaml"]
FITS = {
    # With the logger of nano.yaml: its path stands in the saved configuration and in the hash of the name.
    "finished": ["fit", *NANO, *TRAINED, "--trainer.max_epochs=1"],
    "plugin": [
        *(*PLUGIN, "fit", *NANO, *SILENT, *TRAINED, "--trainer.max_epochs=1", "--name=plugin"),
        *("--model.head=OldHead", "--model.losses.old=OldLoss", "--model.losses.old.weight=0.001"),
    ],
    "interrupted": ["fit", *NANO, *SILENT, *TRAINED, "--trainer.max_epochs=2", "--name=interrupted"],
}
"""The runs that are kept; the last one was killed in its second epoch."""
NARROW = [*NANO, *SILENT, "--model.layers=last-1"]
TEMPERATURE = ["--model.head=TemperatureHead", "--model.head.tau=0.5"]
CACHED = {
    "prompts": ["validate", *NARROW, *TEMPERATURE, "--data.limit_validation=6"],
    "shots": ["validate", *NARROW, *TEMPERATURE, "--data.limit_validation=4", "--data.few_shot=2"],
    "trunk": [
        *("fit", *NARROW, "--model.answer_path.use=trunk", "--model.scope=all", "--data.limit_train=6"),
        *("--trainer.max_epochs=1", "--test_after_fit=false", "--optimizer=torch.optim.SGD", "--optimizer.lr=0.3"),
    ],
}
"""What used each of the kept prompt caches."""


def losses(run):
    """Return the losses of a run's steps, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]
