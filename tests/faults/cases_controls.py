"""Negative controls: what stock Lightning does at the faults that a fit of ours survives, so that those cases bite."""

import functools
import os
import shutil
import signal
import tempfile
from pathlib import Path

import torch
from cases_saves import MEMORY
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from moe_tune.faults.case import Case

LAST = Path("checkpoints", "last.ckpt")
WEIGHTS = "weights.pt"
STOP = 3
"""The batch of the first epoch at which the fault strikes."""


class Regression(LightningModule):
    """A line with dropout, trained in shuffled batches."""

    def __init__(self, strike):
        super().__init__()
        self.line, self.strike = torch.nn.Linear(4, 1), strike

    def training_step(self, batch, index):
        if index == STOP and not Path("struck").exists():
            Path("struck").touch()
            batch = self.strike(batch)
        return self.line(torch.nn.functional.dropout(batch[0], 0.5)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        rows = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(rows), batch_size=8, shuffle=True)


def nothing(batch):
    return batch


def sent(number):
    return functools.partial(_send, number)


def _send(number, batch):
    os.kill(os.getpid(), number)
    return batch


def poisoned(batch):
    return [batch[0] * float("nan")]


class KilledInCopy(Callback):
    """Kills the process within the third copy of the last checkpoint from one filesystem to another."""

    def on_train_start(self, trainer, module):
        copies = [0]

        def half(source, target):
            copies[0] += "last" in str(target.name)
            content = source.read()
            target.write(content if copies[0] < STOP else content[: len(content) // 2])
            target.flush()
            if copies[0] == STOP:
                os.kill(os.getpid(), signal.SIGKILL)

        shutil._fastcopy_sendfile = half


def stock_fit(strike=nothing, *callbacks):
    """Fit two epochs by stock Lightning, from its last checkpoint if there is one; leave its weights."""
    seed_everything(0)
    saving = ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=2, callbacks=[saving, *callbacks], **quiet)
    module = Regression(strike)
    trainer.fit(module, ckpt_path=LAST if LAST.exists() else None, weights_only=True)
    torch.save(module.state_dict(), WEIGHTS)
    raise SystemExit(0)


def stock(trial, *words, env=None):
    return trial.run([], env=env, before=functools.partial(stock_fit, *words)).code


def weights(trial):
    return torch.load(trial.folder / WEIGHTS, weights_only=True)


def resumed(trial):
    codes = [stock(trial, sent(signal.SIGKILL)), stock(trial)]
    ours = weights(trial)
    shutil.rmtree(trial.folder / "checkpoints")
    stock(trial)
    same = torch.equal(ours["line.weight"], weights(trial)["line.weight"])
    return f"{codes[0]}, {codes[1]}, {'same' if same else 'other'} weights"


def elsewhere(trial):
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        codes = [stock(trial, nothing, KilledInCopy(), env={"TMPDIR": temporary}), stock(trial)]
    return f"{codes[0]}, {codes[1]}"


def terminated(trial):
    return f"{stock(trial, sent(signal.SIGTERM))}"


def not_finite(trial):
    code = stock(trial, poisoned)
    return f"{code}, {'finite' if weights(trial)['line.weight'].isfinite().all() else 'NaN'} weights"


def cut(trial):
    first = stock(trial, sent(signal.SIGKILL))
    os.truncate(trial.folder / LAST, (trial.folder / LAST).stat().st_size // 2)
    return f"{first}, {stock(trial)}"


CASES = [
    Case("control", "F1 by stock Lightning: SIGKILL, the same again", "137, 0, other weights", resumed),
    Case("control", "F3 by stock Lightning: SIGKILL in a save, TMPDIR elsewhere, again", "137, 1", elsewhere),
    Case("control", "F4 by stock Lightning: SIGTERM", "0", terminated),
    Case("control", "F11 by stock Lightning: the loss of a step is NaN", "0, NaN weights", not_finite),
    Case("control", "F20 by stock Lightning: last.ckpt cut at 50 %, again", "137, 1", cut),
]
