"""TextRecords: how well each document of the text sources is predicted, with the heads and by the pretrained router."""

from collections.abc import Hashable

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.errors import DataError
from moe_tune.base.published import write_parquet
from moe_tune.callbacks.base_answers import first_batches
from moe_tune.data.texts import tokens_hash
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.identity import IdentityHead
from moe_tune.models.experts_choice import experts_run_by
from moe_tune.reports.table import interval
from moe_tune.runs.answers import BASE, text_file
from moe_tune.runs.directory import RunDirectory
from moe_tune.runs.ledger import OpenedTest, test_content
from moe_tune.stats.text_loss import TextResult, compare_text
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.text_losses import document_losses

KnownTexts = dict[tuple[Hashable, ...], pd.DataFrame]
"""What the pretrained router made of texts before, by all that it follows from."""


class TextRecords(Callback):
    """Writes ``text/test_<name>.parquet``: id, content_hash, tokens and loss (mean, nats per token), a row a document.

    ``text/test_<name>.base.parquet`` has the pretrained router's. It logs ``test_<name>/loss``, the mean over all
    scored tokens, prints a line for each source, and records the opening in the ledger.

    Args:
        directory: The run directory.
        known: What runs of this process have asked the pretrained router before.
    """

    def __init__(self, directory: RunDirectory, known: KnownTexts | None = None) -> None:
        self.directory, self.known = directory, {} if known is None else known

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Let heads and pretrained router predict every text."""
        for name in pl_module.quiz.texts:
            tuned = _predicted(trainer, pl_module, name)
            base = self._base(trainer, pl_module, name, tuned)
            loss = float((tuned["loss"] * tuned["tokens"]).sum() / tuned["tokens"].sum())
            pl_module.log(f"{name}/loss", torch.tensor(loss, dtype=torch.float64))
            if trainer.is_global_zero:
                write_parquet(tuned, text_file(self.directory.path, name))
                write_parquet(base, text_file(self.directory.path, name, BASE))
                self.directory.record_opening(reading_of_text(tuned, name, loss, pl_module.gated))
            rank_zero_info(text_line(name, tuned, base))

    def _base(self, trainer: Trainer, tuner: RouterTuner, name: str, tuned: pd.DataFrame) -> pd.DataFrame:
        key = _circumstances(trainer, tuner, name)
        if key not in self.known:
            alone = isinstance(tuner.head, IdentityHead) and not tuner.trains  # it is its own reference
            with tuner.gated.session(base_only=True):
                self.known[key] = tuned if alone else _predicted(trainer, tuner, name)
        return self.known[key]


def _predicted(trainer: Trainer, tuner: RouterTuner, name: str) -> pd.DataFrame:
    gated, quiz = tuner.gated, tuner.quiz
    batches = first_batches(quiz.text_loader(name), trainer.limit_test_batches)
    with experts_run_by(gated.model, tuner.opened.pass_experts):  # that of many tokens
        found = document_losses(gated, batches, name, tuner.examiner.numerics)
    documents = [quiz.documents(name)[index].document for index in found.document_D.tolist()]
    return pd.DataFrame(
        {
            "id": [one.id for one in documents],
            "content_hash": [one.content_hash for one in documents],
            "tokens": found.tokens_D.numpy(),
            "loss": (found.loss_D / found.tokens_D).numpy(),
        }
    )


def _circumstances(trainer: Trainer, tuner: RouterTuner, name: str) -> tuple[Hashable, ...]:
    gated, quiz = tuner.gated, tuner.quiz
    numerics = (trainer.precision, tuner.routing_dtype, tuner.opened.pass_experts, str(gated.device))
    how = (quiz.eval_batch_size, trainer.limit_test_batches, trainer.world_size)
    return (name, gated.fingerprint, tokens_hash(quiz.documents(name)), *numerics, *how)


def reading_of_text(frame: pd.DataFrame, name: str, loss: float, gated: GatedModel) -> OpenedTest:
    """Return what the ledger keeps of a text that was read."""
    lines = (f"{content} {tokens}" for content, tokens in zip(frame["content_hash"], frame["tokens"], strict=True))
    return OpenedTest(test_content(lines), name, "test", len(frame), "text", 0, gated.all_weights, loss)


def compared_frames(base: pd.DataFrame, tuned: pd.DataFrame) -> TextResult:
    """Return what two tables of the same documents, in the same order, say.

    Raises:
        DataError: All documents are the same one.
    """
    tokens_D = tuned["tokens"].to_numpy(dtype=np.int64)
    base_SD, tuned_SD = ((one["loss"].to_numpy() * tokens_D)[None] for one in (base, tuned))
    return compare_text(base_SD, tuned_SD, tokens_D, list(tuned["content_hash"]))


def text_line(name: str, tuned: pd.DataFrame, base: pd.DataFrame) -> str:
    """Return how a text is predicted beside the pretrained router, as a line.

    Example:
        >>> made = {"id": ["a", "b"], "content_hash": ["a", "b"], "tokens": [10, 10], "loss": [1.0, 2.0]}
        >>> print(text_line("test_page", pd.DataFrame(made), pd.DataFrame(made)))
        test_page: next-token loss 1.5000 (2 documents, 20 tokens) against the pretrained router's 1.5000: \
+0.0000 nats [+0.0000, +0.0000], perplexity ratio 1.0000 [1.0000, 1.0000] (95 % intervals, bootstrap over documents)
    """
    try:
        result = compared_frames(base, tuned)
    except DataError:
        return f"{name}: a single document, of which nothing is said"
    return (
        f"{name}: next-token loss {result.loss:.4f} ({result.documents:,} documents, {result.tokens:,} tokens) against "
        f"the pretrained router's {result.baseline_loss:.4f}: {result.diff:+.4f} nats "
        f"{interval(*result.ci95, '+.4f', 1)}, perplexity ratio {result.ratio:.4f} "
        f"{interval(*result.ratio_ci95, '.4f', 1)} (95 % intervals, bootstrap over documents)"
    )
