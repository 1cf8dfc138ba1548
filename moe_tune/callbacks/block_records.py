"""BlockRecords: how well the held-out documents of the text that is trained on are predicted."""

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.published import write_parquet
from moe_tune.callbacks.evidence_tables import with_estimates
from moe_tune.callbacks.text_records import text_line
from moe_tune.models.experts_choice import experts_run_by
from moe_tune.runs.answers import BASE, routing_file, text_file
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.text_evidence import text_evidence
from moe_tune.tuner.text_losses import document_losses

NAME = "validation"


class BlockRecords(Callback):
    """Logs ``validation_text/loss`` after every validation, the mean over all scored tokens of the held-out documents.

    With the checkpoint that is tested it writes ``text/validation.parquet``: id, content_hash, tokens and loss (mean,
    nats per token), a row a document, and ``text/validation.base.parquet``, the pretrained router's. Beside them,
    ``routing/validation_text.parquet`` and ``.base.parquet`` say how well the tokens were predicted that each expert
    served: next-token accuracy, raw and shrunk towards its layer's, and loss.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Log the loss, before checkpoints are chosen by it."""
        if pl_module.task != "quiz" and not trainer.sanity_checking:
            table = self._measured(pl_module)
            value = float((table["loss"] * table["tokens"]).sum() / table["tokens"].sum())
            pl_module.log("validation_text/loss", torch.tensor(value, dtype=torch.float64), prog_bar=True)
            if trainer.state.fn == "validate":
                with pl_module.gated.session(base_only=True):
                    base = self._measured(pl_module)
                rank_zero_info(text_line("validation_text", table, base))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Ask the heads that are tested, and the pretrained router."""
        if pl_module.task == "quiz":
            return
        tuned, experts = self._measured(pl_module), self._evidence(pl_module)
        with pl_module.gated.session(base_only=True):
            base, base_experts = self._measured(pl_module), self._evidence(pl_module)
        if trainer.is_global_zero:
            for table, routing, of in ((tuned, experts, ""), (base, base_experts, BASE)):
                write_parquet(table, text_file(self.directory.path, NAME, of))
                write_parquet(routing, routing_file(self.directory.path, "validation_text", of))
        rank_zero_info(text_line("validation_text", tuned, base))

    def _evidence(self, tuner: RouterTuner) -> pd.DataFrame:
        batches, numerics = tuner.quiz.block_loader("validation"), tuner.examiner.numerics
        with experts_run_by(tuner.gated.model, tuner.opened.pass_experts):
            return with_estimates(text_evidence(tuner.text_way, batches, numerics))

    def _measured(self, tuner: RouterTuner) -> pd.DataFrame:
        """Return how each document is predicted, all of its blocks together."""
        quiz, numerics = tuner.quiz, tuner.examiner.numerics
        with experts_run_by(tuner.gated.model, tuner.opened.pass_experts):  # that of many tokens
            found = document_losses(tuner.gated, quiz.block_loader("validation"), "validation text", numerics)
        blocks = quiz.text_blocks("validation")
        documents = [blocks[index].document for index in found.document_D.tolist()]
        sums = {"loss": found.loss_D.numpy(), "tokens": found.tokens_D.numpy()}
        names = {"id": [one.id for one in documents], "content_hash": [one.content_hash for one in documents]}
        table = pd.DataFrame(names | sums).groupby(["id", "content_hash"], sort=False, as_index=False).sum()
        return table.assign(tokens=table["tokens"].astype(np.int64), loss=table["loss"] / table["tokens"])
