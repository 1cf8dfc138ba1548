"""ShortAnswerRecords: what short questions are answered with, with the heads and by the pretrained router."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch import Trainer

from moe_tune.base.errors import DataError
from moe_tune.callbacks.base_answers import first_batches
from moe_tune.callbacks.beside_records import BesideRecords
from moe_tune.data.exact_match import exact_match
from moe_tune.data.short_answers import asked_hash
from moe_tune.reports.table import interval
from moe_tune.runs.answers import short_file
from moe_tune.stats.accuracy_estimates import accuracy_text
from moe_tune.stats.paired import compare_paired
from moe_tune.tuner.greedy_answers import greedy_answers
from moe_tune.tuner.router_tuner import RouterTuner


class ShortAnswerRecords(BesideRecords):
    """Writes ``short_answers/test_<name>.parquet``: id, content_hash, prompt, accepted, answer, correct, a row each.

    ``short_answers/test_<name>.base.parquet`` has the pretrained router's. It logs ``test_<name>/exact_match``, the
    share of answers that equal an accepted text, prints a line for each source, and records the opening in the ledger.
    """

    key, protocol = "exact_match", "short answers"

    def names(self, tuner: RouterTuner) -> Iterable[str]:
        return tuner.quiz.short_answers

    def measured(self, trainer: Trainer, tuner: RouterTuner, name: str) -> pd.DataFrame:
        quiz = tuner.quiz
        batches = first_batches(quiz.short_loader(name), trainer.limit_test_batches)
        most = quiz.short_answers[name].source.max_new_tokens
        found = greedy_answers(tuner.gated, batches, tuner.tokenizer, most, tuner.examiner.numerics)
        asked = [quiz.short_questions(name)[index].question for index in found.question_Q.tolist()]
        return pd.DataFrame(
            {
                "id": [one.id for one in asked],
                "content_hash": [one.content_hash for one in asked],
                "prompt": [one.prompt for one in asked],
                "accepted": [list(one.accepted) for one in asked],
                "answer": found.texts,
                "correct": [exact_match(text, one.accepted) for text, one in zip(found.texts, asked, strict=True)],
            }
        )

    def content(self, tuner: RouterTuner, name: str) -> str:
        return f"{asked_hash(tuner.quiz.short_questions(name))} {tuner.quiz.short_answers[name].source.max_new_tokens}"

    def value(self, table: pd.DataFrame) -> float:
        return float(table["correct"].mean())

    def lines(self, table: pd.DataFrame) -> Iterable[str]:
        return (
            f"{content} {sorted(own)}" for content, own in zip(table["content_hash"], table["accepted"], strict=True)
        )

    def told(self, name: str, tuned: pd.DataFrame, base: pd.DataFrame) -> str:
        return short_line(name, tuned, base)

    def file(self, name: str, of: str = "") -> Path:
        return short_file(self.directory.path, name, of)


def short_line(name: str, tuned: pd.DataFrame, base: pd.DataFrame) -> str:
    """Return how short questions are answered beside the pretrained router, as a line.

    Example:
        >>> made = {"content_hash": ["a", "b"], "correct": [True, False]}
        >>> print(short_line("test_free", pd.DataFrame(made), pd.DataFrame(made)))
        test_free: exact match 50.0 % (n 2, 95 % Wilson interval 9.5 to 90.5) against the pretrained router's 50.0 %: \
+0.0 points [-77.6, +77.6], inconclusive (paired, 95 % interval; 0 gained, 0 lost)
    """
    right_Q, before_Q = (one["correct"].to_numpy(dtype=np.bool_) for one in (tuned, base))
    said = f"{name}: exact match {accuracy_text(int(right_Q.sum()), len(right_Q))}"
    try:
        one = compare_paired(before_Q[None], right_Q[None], list(tuned["content_hash"]), [""] * len(tuned), [0])
    except DataError:
        return f"{said}, of a single question"
    return (
        f"{said} against the pretrained router's {100 * one.baseline_accuracy:.1f} %: {100 * one.diff:+.1f} points "
        f"{interval(*one.told_ci95, '+.1f')}, {one.decision} (paired, 95 % interval; "
        f"{one.n01:,} gained, {one.n10:,} lost)"
    )
