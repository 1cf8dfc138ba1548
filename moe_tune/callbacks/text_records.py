"""TextRecords: how well each document of the text sources is predicted, with the heads and by the pretrained router."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer

from moe_tune.base.errors import DataError
from moe_tune.callbacks.base_answers import first_batches
from moe_tune.callbacks.beside_records import BesideRecords
from moe_tune.data.texts import tokens_hash
from moe_tune.reports.table import interval
from moe_tune.runs.answers import text_file
from moe_tune.stats.text_loss import TextResult, compare_text
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.text_losses import document_losses


class TextRecords(BesideRecords):
    """Writes ``text/test_<name>.parquet``: id, content_hash, tokens and loss (mean, nats per token), a row a document.

    ``text/test_<name>.base.parquet`` has the pretrained router's. It logs ``test_<name>/loss``, the mean over all
    scored tokens, prints a line for each source, and records the opening in the ledger.
    """

    key, protocol = "loss", "text"

    def names(self, tuner: RouterTuner) -> Iterable[str]:
        return tuner.quiz.texts

    def measured(self, trainer: Trainer, tuner: RouterTuner, name: str) -> pd.DataFrame:
        quiz = tuner.quiz
        batches = first_batches(quiz.text_loader(name), trainer.limit_test_batches)
        found = document_losses(tuner.gated, batches, name, tuner.examiner.numerics)
        documents = [quiz.documents(name)[index].document for index in found.document_D.tolist()]
        return pd.DataFrame(
            {
                "id": [one.id for one in documents],
                "content_hash": [one.content_hash for one in documents],
                "tokens": found.tokens_D.numpy(),
                "loss": (found.loss_D / found.tokens_D).numpy(),
            }
        )

    def content(self, tuner: RouterTuner, name: str) -> str:
        return tokens_hash(tuner.quiz.documents(name))

    def value(self, table: pd.DataFrame) -> float:
        return float((table["loss"] * table["tokens"]).sum() / table["tokens"].sum())

    def lines(self, table: pd.DataFrame) -> Iterable[str]:
        return (f"{content} {tokens}" for content, tokens in zip(table["content_hash"], table["tokens"], strict=True))

    def told(self, name: str, tuned: pd.DataFrame, base: pd.DataFrame) -> str:
        return text_line(name, tuned, base)

    def file(self, name: str, of: str = "") -> Path:
        return text_file(self.directory.path, name, of)


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
