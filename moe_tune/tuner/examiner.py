"""The one way to answer batches for anything but a training step, and the one pass over a split."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.way import Way
from moe_tune.base.errors import DataError
from moe_tune.base.progress import with_bar
from moe_tune.data.batching import Batch
from moe_tune.metrics.base import MetricShape
from moe_tune.metrics.evidence import SCOPES, RoutingEvidence
from moe_tune.routing import Part, RoutingTrace, Scope
from moe_tune.tuner.finite import told_where
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.objective import TaskLoss, judge, letter_mass, words_read
from moe_tune.tuner.split_results import SplitResults


class Recorder(Protocol):
    """Keeps what it wants of every answered batch."""

    @property
    def reads_mass(self) -> bool:
        """Whether it reads the letters' share of the vocabulary's probability, which needs the logits of all words."""

    @property
    def needs(self) -> frozenset[str]:
        """Costly extras of the routing that it reads: ``hidden``, ``base_logits``, ``own_probs``."""

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        """Add a batch; where heads act side by side, each question has a row for each of them."""


Kept = TypeVar("Kept", bound=Recorder)


class Examiner:
    """Asks a model the questions of a quiz: knows mode, numerics, what is recorded, and what may not be scored.

    Args:
        answering: Takes batches to their logits.
        task_loss: Cross-entropy over the answer ``letters``, or over the full ``vocabulary``.
        numerics: Gives the context of a forward pass, such as autocast.
    """

    def __init__(
        self,
        answering: Answering,
        task_loss: TaskLoss = "letters",
        numerics: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.answering, self.task_loss, self.numerics = answering, task_loss, numerics
        self.gated, self.quiz = answering.circumstances.gated, answering.circumstances.quiz
        self._allowed: set[str] = set()

    def settle(self, split: str) -> Way:
        """Return how a split goes; where its cache would be above the limit, training goes on with a sample."""
        every = None
        with self.numerics():
            while (decided := self.answering.decide(split)).sample is not None:
                every = every or len(self.quiz.encoded(split).prompts)
                self.quiz.limit(split, decided.sample)
        if every is not None:
            rank_zero_info(
                f"training on {len(self.quiz.encoded(split).prompts):,} of {every:,} questions, a sample by subject: "
                f"their cache stays within {self.answering.circumstances.settings.limit_gb:g} GB "
                "(model.answer_path.limit_gb, above_limit)"
            )
        return decided.way

    def prepare(self, splits: Iterable[str]) -> None:
        """Settle the ways of splits, and build or open their prompt caches."""
        for split in splits:
            self.settle(split)
            with self.numerics():
                self.answering.keep(split)

    @torch.no_grad()
    def answer_batch(self, batch: Batch, split: str, recorder: Recorder | None = None) -> Judged:
        """Return the log-probabilities of the choices and the task loss of each question.

        Raises:
            DataError: The heads were calibrated on questions of the split.
            NumericsError: A letter's logit is not finite.
        """
        self._refuse_seen(split)
        self.settle(split)
        training = self.gated.training
        if training:
            self.gated.train(False)
        try:
            with self.gated.session(needs=() if recorder is None else recorder.needs) as session, self.numerics():
                whole = recorder is None or recorder.reads_mass
                known = self.quiz.letter_token_ids(split)
                words, letters = words_read(self.gated, batch, known, self.task_loss, whole=whole)
                logits_BV = self.answering.logits(batch, split, words).float()
                with told_where(self.gated, lambda: self._names(batch, split)):
                    judged = judge(logits_BV, batch, letters, self.task_loss, split)
                if batch.choices is None and whole:
                    judged = judged._replace(letter_mass_B=letter_mass(logits_BV, batch, letters))
                if recorder is not None:
                    assert session.trace is not None
                    recorder.add(session.trace, batch, judged)
        finally:
            if training:
                self.gated.train(True)
        return judged

    def evaluate(
        self, split: str, recorder: Kept, batches: Iterable[Batch] | None = None, announced: str | None = None
    ) -> Kept:
        """Answer every question of a split once, and return the recorder; nothing else is left changed.

        No random number is drawn, so that a training goes on as if there had been no pass.
        """
        self.prepare([split])
        asked = self.quiz.loader(split) if batches is None else batches
        if announced is not None:
            asked = with_bar(asked, announced)
        training = self.gated.training
        self.gated.train(False)
        try:
            for batch in asked:
                self.answer_batch(batch.to(self.gated.device), split, recorder)
        finally:
            self.gated.train(training)
        return recorder

    def _names(self, batch: Batch, split: str) -> list[str]:
        questions = self.quiz.questions(split)
        return [questions[one].id for one in batch.question_B.tolist()]

    def on_full_prompts(self) -> "Examiner":
        """Return an examiner of the same model and quiz that keeps nothing of the prompts."""
        here = self.answering.circumstances
        way = replace(here, settings=replace(here.settings, use="never"))
        return Examiner(Answering(way), self.task_loss, self.numerics)

    def metric_shape(self, split: str) -> MetricShape:
        """Return the sizes of the metrics' states for a split of the quiz: the layers that run, its questions."""
        rule, quiz = self.gated.rule, self.quiz
        first = self.answering.circumstances.reach.first_layer if self.settle(split) is Way.TRUNK else 0
        layers = tuple(one for one in self.gated.gates if one >= first)
        return MetricShape(layers, rule.num_experts, rule.top_k, len(quiz.subjects), len(quiz.questions(split)))

    def results(self, split: str, scopes: Iterable[Scope | Part] = SCOPES) -> SplitResults:
        """Return a recorder of answers and of every routing metric."""
        return SplitResults(RoutingEvidence(self.metric_shape(split), tuple(scopes)).to(self.gated.device))

    def _refuse_seen(self, split: str) -> None:
        """Refuse to score calibrated heads on questions that they were calibrated on, other than as training ones."""
        if split == "train" or split in self._allowed or not self.gated.calibrated_on:
            return
        shared = sum(question.content_hash in self.gated.calibrated_on for question in self.quiz.questions(split))
        if shared:
            raise DataError(
                f"expected no question of the {split} split among those the head was calibrated on but got {shared:,} "
                f"({split} split). Hint: --data.train_split validation carves both splits from one, repeats kept "
                "together; or take them out of the training file."
            )
        self._allowed.add(split)
