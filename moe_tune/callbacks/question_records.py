"""QuestionRecords: how every single question was answered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.published import write_parquet
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.module import QuizDataModule
from moe_tune.data.question import Question
from moe_tune.runs.directory import RunDirectory
from moe_tune.stats.accuracy_estimates import accuracy_text, raw_accuracy
from moe_tune.tuner.router_tuner import RouterTuner


class QuestionRecords(Callback):
    """Writes ``questions/<split>.parquet``: id, content_hash, subject, gold, log_probs, prediction, one row a question.

    Under a cloze protocol ``log_likelihoods`` and ``log_likelihoods_per_byte`` of the choices' texts come after them.

    It prints each split's accuracy with its Wilson interval, and says ``chance`` when the interval holds
    the accuracy of guessing. Every evaluation of a test split is recorded in the ledger.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the validation split's records; say how it went when that is all that was asked for."""
        for split, frame in self._write(trainer, pl_module).items():
            if trainer.state.fn == "validate":
                rank_zero_info(accuracy_line(split, frame))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the records of every test loader, and say how it went."""
        for split, frame in self._write(trainer, pl_module).items():
            self.directory.record_opening(split, len(frame))
            rank_zero_info(accuracy_line(split, frame))

    def _write(self, trainer: Trainer, tuner: RouterTuner) -> dict[str, pd.DataFrame]:
        frames = {}
        for split, results in tuner.results.items():
            results.join()
            index_Q, log_probs_QA = torch.cat(results.question_Q), torch.cat(results.log_probs_QA)
            raw_QA = torch.cat(results.log_likelihood_QA) if results.log_likelihood_QA else None
            frames[split] = question_frame(tuner.quiz.questions(split), index_Q, log_probs_QA, raw_QA)
            if trainer.is_global_zero:
                write_parquet(frames[split], self.directory.path / "questions" / f"{split}.parquet")
        return frames


class PredictionRecords(Callback):
    """Writes ``predictions.parquet`` at the end of ``predict``, in the columns of the other records.

    If it was a test split that was predicted, the ledger records it.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: RouterTuner, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep a batch's predictions."""
        self.seen.append(outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write them."""
        index_Q = joined_over_ranks(torch.cat([one["question_B"] for one in self.seen]))
        log_probs_QA = joined_over_ranks(torch.cat([one["log_probs_BA"] for one in self.seen]))
        log_likelihood_QA = None
        if "log_likelihood_BA" in self.seen[0]:
            log_likelihood_QA = joined_over_ranks(torch.cat([one["log_likelihood_BA"] for one in self.seen]))
        if not trainer.is_global_zero:
            return
        quiz: QuizDataModule = trainer.datamodule
        split, file = quiz.predict_split, self.directory.path / "predictions.parquet"
        write_parquet(question_frame(quiz.questions(split), index_Q, log_probs_QA, log_likelihood_QA), file)
        if split.startswith("test"):
            self.directory.record_opening(f"{split} (predict)", len(index_Q))
        rank_zero_info(f"predictions of {len(index_Q):,} questions: {file}")


def question_frame(
    questions: Sequence[Question],
    index_Q: torch.Tensor,
    log_probs_QA: torch.Tensor,
    log_likelihood_QA: torch.Tensor | None = None,
) -> pd.DataFrame:
    """Return one row per answered question, in the split's order.

    Under a cloze protocol two lists more per question: the choices' log-likelihoods, and those per byte of their texts.
    """
    order_Q = index_Q.argsort()
    rows = []
    for index, log_probs_A in zip(index_Q[order_Q].tolist(), log_probs_QA[order_Q].double(), strict=True):
        one = questions[index]
        letters = log_probs_A[: len(one.choices)]
        about = (one.id, one.content_hash, one.subject, one.answer)
        rows.append((*about, letters.tolist(), int(letters.argmax()), len(one.choices)))
    frame = pd.DataFrame(rows, columns=["id", "content_hash", "subject", "gold", "log_probs", "prediction", "choices"])
    if log_likelihood_QA is not None:
        texts = [questions[index].choices for index in index_Q[order_Q].tolist()]
        raw = [
            found[: len(own)] for found, own in zip(log_likelihood_QA[order_Q].double().tolist(), texts, strict=True)
        ]
        frame["log_likelihoods"] = raw
        frame["log_likelihoods_per_byte"] = [
            [value / len(text.encode()) for value, text in zip(*pair, strict=True)]
            for pair in zip(raw, texts, strict=True)
        ]
    return frame


def accuracy_line(split: str, frame: pd.DataFrame) -> str:
    """Return a split's accuracy with interval and n, and whether it is what guessing gives.

    Example:
        >>> accuracy_line("test", pd.DataFrame({"gold": [0, 1, 2, 3], "prediction": [0, 0, 0, 0], "choices": [4] * 4}))
        'test: accuracy 25.0 % (n 4, 95 % Wilson interval 4.6 to 69.9): chance is 25.0'
    """
    right, n = int((frame["gold"] == frame["prediction"]).sum()), len(frame)
    _, low, high = raw_accuracy(np.array(right), np.array(n))
    guess = float((1 / frame["choices"]).mean())
    verdict = f": chance is {100 * guess:.1f}" if low <= guess <= high else ""
    return f"{split}: accuracy {accuracy_text(right, n)}{verdict}"
