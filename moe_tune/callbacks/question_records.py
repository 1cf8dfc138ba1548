"""QuestionRecords: how every single question was answered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.published import write_parquet
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.module import QuizDataModule
from moe_tune.data.question import Question, one_letter
from moe_tune.gates.gated_model import GatedModel
from moe_tune.runs.directory import RunDirectory
from moe_tune.runs.ledger import OpenedTest, question_lines, test_content
from moe_tune.stats.accuracy_estimates import accuracy_text, raw_accuracy
from moe_tune.tuner.router_tuner import RouterTuner


class QuestionRecords(Callback):
    """Writes ``questions/<split>.parquet``: id, content_hash, subject, gold, log_probs, prediction, one row a question.

    Under a cloze protocol ``log_likelihoods`` and ``log_likelihoods_per_byte`` of the choices' texts come after them.

    It prints each split's accuracy with its Wilson interval, and says ``chance`` when the interval holds
    the accuracy of guessing; the letters' mean share of the vocabulary's probability, and when all answers are one
    letter. Every evaluation of a test split is recorded in the ledger.

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
            if trainer.is_global_zero:
                self.directory.record_opening(reading_of(frame, split, "test", pl_module.quiz, pl_module.gated))
            rank_zero_info(accuracy_line(split, frame))

    def _write(self, trainer: Trainer, tuner: RouterTuner) -> dict[str, pd.DataFrame]:
        frames = {}
        for split, results in tuner.results.items():
            results.join()
            frames[split] = question_frame(tuner.quiz.questions(split), torch.cat(results.question_Q), results.answers)
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
        rows = {name: joined_over_ranks(torch.cat([one[name] for one in self.seen])) for name in self.seen[0]}
        index_Q = rows.pop("question_B")
        if not trainer.is_global_zero:
            return
        quiz: QuizDataModule = trainer.datamodule
        split, file = quiz.predict_split, self.directory.path / "predictions.parquet"
        frame = question_frame(quiz.questions(split), index_Q, rows)
        write_parquet(frame, file)
        if split.startswith("test"):
            self.directory.record_opening(reading_of(frame, split, "predict", quiz, pl_module.gated))
        rank_zero_info(f"predictions of {len(index_Q):,} questions: {file}")


def reading_of(frame: pd.DataFrame, split: str, verb: str, quiz: QuizDataModule, gated: GatedModel) -> OpenedTest:
    """Return what the ledger keeps of a test split's answers."""
    return OpenedTest(
        test=test_content(question_lines(frame)),
        split=split,
        verb=verb,
        questions=len(frame),
        protocol=quiz.protocol_name(split),
        few_shot=quiz.few_shot,
        weights=gated.all_weights,
        result=float((frame["gold"] == frame["prediction"]).mean()),
    )


def question_frame(
    questions: Sequence[Question], index_Q: torch.Tensor, answers: Mapping[str, torch.Tensor]
) -> pd.DataFrame:
    """Return one row per answered question, in the split's order.

    Under a cloze protocol two lists more per question: the choices' log-likelihoods, and those per byte of their texts.

    Args:
        questions: All questions of the split.
        index_Q: Which of them were answered.
        answers: What is kept of each answer, by ``Judged``'s names.
    """
    order_Q = index_Q.argsort()
    rows = []
    for index, log_probs_A in zip(index_Q[order_Q].tolist(), answers["log_probs_BA"][order_Q].double(), strict=True):
        one = questions[index]
        letters = log_probs_A[: len(one.choices)]
        about = (one.id, one.content_hash, one.subject, one.answer)
        rows.append((*about, letters.tolist(), int(letters.argmax()), len(one.choices)))
    frame = pd.DataFrame(rows, columns=["id", "content_hash", "subject", "gold", "log_probs", "prediction", "choices"])
    mass_Q = answers.get("letter_mass_B")
    frame["letter_mass"] = np.nan if mass_Q is None else mass_Q[order_Q].double().numpy()
    if (log_likelihood_QA := answers.get("log_likelihood_BA")) is not None:
        texts = [questions[index].choices for index in index_Q[order_Q].tolist()]
        found = zip(log_likelihood_QA[order_Q].double().tolist(), texts, strict=True)
        raw = [values[: len(own)] for values, own in found]
        frame["log_likelihoods"] = raw
        frame["log_likelihoods_per_byte"] = [
            [value / len(text.encode()) for value, text in zip(*pair, strict=True)]
            for pair in zip(raw, texts, strict=True)
        ]
    return frame


def accuracy_line(split: str, frame: pd.DataFrame) -> str:
    """Return a split's accuracy with interval and n, whether it is what guessing gives, and how sure the letters are.

    Example:
        >>> answers = {"gold": [0, 1, 2, 3], "prediction": [0, 0, 0, 0], "choices": [4] * 4, "letter_mass": [0.5] * 4}
        >>> accuracy_line("test", pd.DataFrame(answers))
        'test: accuracy 25.0 % (n 4, 95 % Wilson interval 4.6 to 69.9): chance is 25.0; letter mass 0.500; all 4 are A'
    """
    right, n = int((frame["gold"] == frame["prediction"]).sum()), len(frame)
    _, low, high = raw_accuracy(np.array(right), np.array(n))
    guess = float((1 / frame["choices"]).mean())
    verdict = f": chance is {100 * guess:.1f}" if low <= guess <= high else ""
    one = f"; {same}" if (same := one_letter(frame["prediction"])) else ""
    mass = frame["letter_mass"].mean()
    letters = "" if np.isnan(mass) else f"; letter mass {mass:.3f}"  # no letters are asked for under cloze
    return f"{split}: accuracy {accuracy_text(right, n)}{verdict}{letters}{one}"
