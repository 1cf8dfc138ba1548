"""Configurations that no run can mean, found by ``check``."""

from functools import partial

from moe_tune.faults.case import Case
from moe_tune.faults.tiny import told
from moe_tune.faults.trial import Trial

WRONG = {
    "a key twice": ("seed_everything: 1\nseed_everything: 2\n", ("seed_everything",)),
    "an unknown key": ("trainer:\n  max_epoch: 3\n", ("max_epoch",)),
    "an unknown head": ("model:\n  head: RetunedHed\n", ("RetunedHead",)),
    "a learning rate below 0": ("optimizer:\n  init_args:\n    lr: -0.1\n", ("lr",)),
}
"""What is wrong, by name: lines of a file over the nano configuration, and words of the message."""


def _checked(text: str, words: tuple[str, ...], trial: Trial) -> str:
    file = trial.folder / "wrong.yaml"
    file.write_text(text, encoding="utf-8")
    ended = trial.run(["check", str(file)])
    return told(ended.code, ended.err, *words)


CASES = [Case("config", name, "exit 2", partial(_checked, text, words)) for name, (text, words) in WRONG.items()]
