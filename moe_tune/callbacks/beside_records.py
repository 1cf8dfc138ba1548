"""What records of texts and of short answers have in common: asked after the test questions, of both routers."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from pathlib import Path

import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.published import write_parquet
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.experts_choice import experts_run_by
from moe_tune.runs.answers import BASE
from moe_tune.runs.directory import RunDirectory
from moe_tune.runs.ledger import OpenedTest, test_content
from moe_tune.tuner.router_tuner import RouterTuner

KnownBeside = dict[tuple[Hashable, ...], pd.DataFrame]
"""What the pretrained router made of texts and short answers before, by all that it follows from."""


class BesideRecords(Callback, ABC):
    """Writes a table for each source of a kind and the pretrained router's beside it, an item a row.

    It logs one value of each source, prints a line, and records the opening in the ledger.

    Args:
        directory: The run directory.
        known: What runs of this process have asked the pretrained router before.

    Attributes:
        key: What the logged value is called, behind the source's name.
        protocol: How the ledger calls the way the items are asked.
    """

    key: str
    protocol: str

    def __init__(self, directory: RunDirectory, known: KnownBeside | None = None) -> None:
        self.directory, self.known = directory, {} if known is None else known

    @abstractmethod
    def names(self, tuner: RouterTuner) -> Iterable[str]:
        """Return the names of the sources."""

    @abstractmethod
    def measured(self, trainer: Trainer, tuner: RouterTuner, name: str) -> pd.DataFrame:
        """Return what the model as it is makes of a source; every process comes here."""

    @abstractmethod
    def content(self, tuner: RouterTuner, name: str) -> str:
        """Return a hash of all that a source gives the model."""

    @abstractmethod
    def value(self, table: pd.DataFrame) -> float:
        """Return the value that is logged."""

    @abstractmethod
    def lines(self, table: pd.DataFrame) -> Iterable[str]:
        """Yield what each item is in a test, for the ledger."""

    @abstractmethod
    def told(self, name: str, tuned: pd.DataFrame, base: pd.DataFrame) -> str:
        """Return how a source goes beside the pretrained router, as a line."""

    @abstractmethod
    def file(self, name: str, of: str = "") -> Path:
        """Return the file of a table."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Let heads and pretrained router have every source."""
        for name in self.names(pl_module):
            with experts_run_by(pl_module.gated.model, pl_module.opened.pass_experts):  # that of many tokens
                tuned = self.measured(trainer, pl_module, name)
                base = self._base(trainer, pl_module, name, tuned)
            value = self.value(tuned)
            pl_module.log(f"{name}/{self.key}", torch.tensor(value, dtype=torch.float64))
            if trainer.is_global_zero:
                write_parquet(tuned, self.file(name))
                write_parquet(base, self.file(name, BASE))
                test, weights = test_content(self.lines(tuned)), pl_module.gated.all_weights
                opened = OpenedTest(test, name, "test", len(tuned), self.protocol, 0, weights, value)
                self.directory.record_opening(opened)
            rank_zero_info(self.told(name, tuned, base))

    def _base(self, trainer: Trainer, tuner: RouterTuner, name: str, tuned: pd.DataFrame) -> pd.DataFrame:
        key = (name, self.content(tuner, name), *_circumstances(trainer, tuner))
        if key not in self.known:
            alone = isinstance(tuner.head, IdentityHead) and not tuner.trains  # it is its own reference
            with tuner.gated.session(base_only=True):
                self.known[key] = tuned if alone else self.measured(trainer, tuner, name)
        return self.known[key]


def _circumstances(trainer: Trainer, tuner: RouterTuner) -> tuple[Hashable, ...]:
    gated = tuner.gated
    numerics = (trainer.precision, tuner.routing_dtype, tuner.opened.pass_experts, str(gated.device))
    how = (tuner.quiz.eval_batch_size, trainer.limit_test_batches, trainer.world_size)
    return (gated.fingerprint, *numerics, *how)
