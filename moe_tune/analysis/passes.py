"""The passes over the questions that an analysis reads: every token's routing, told by scope and prompt part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moe_tune.analysis.answer_weights import AnswerWeights
from moe_tune.data.batching import Batch
from moe_tune.data.encoding import PromptedQuestion, PromptEncoder
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.gated_model import GatedModel
from moe_tune.routing import PARTS, Part, RoutingTrace, Scope
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.tuner.calibration import calibrate
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.opening import OpenModel, open_model
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


class AnalysedModel:
    """The model of a configuration, which answers questions as a run of it does.

    Args:
        host: The configuration's model, head and numerics, not loaded.
        scopes: Which tokens count; with ``answer`` alone prompts go the way of the host's ``answer_path``.
    """

    def __init__(self, host: RouterTuner, scopes: Sequence[Scope | Part]) -> None:
        way = host.answer_path if list(scopes) == ["answer"] else replace(host.answer_path, use="never")
        self.host, self.scopes, self.asked = host, tuple(scopes), replace(host.asked, losses={}, answer_path=way)
        self.base, self.head, self.scope, self.routing_dtype = host.base, host.head, host.scope, host.routing_dtype
        self._opened: OpenModel | None = None

    @property
    def gated(self) -> GatedModel:
        """The model, once a pass has loaded it."""
        assert self._opened is not None
        return self._opened.gated

    def examiner(self, quiz: QuizDataModule, trainer: Trainer, checkpoint: str | None) -> Examiner:
        """Return who asks the questions of a quiz, the heads restored, or calibrated on its training questions."""
        host = self.host
        if checkpoint is not None or self.head.traits.needs_calibration:
            quiz.split_alone()
        quiz.prepare(host.tokenizer, host.context_length)
        if self._opened is None:
            self._opened = open_model(self.asked, trainer.strategy.root_device)
        examiner = self._opened.examiner(quiz, numerics=trainer.precision_plugin.forward_context)
        if checkpoint is not None:
            self._opened.restore(RouterCheckpointIO().load_checkpoint(checkpoint))
        elif self.head.traits.needs_calibration:
            calibrate(examiner)  # with other examples it is other prompts that heads are calibrated on
        if not host.trains:
            for head in self.gated.heads.values():
                head.set_progress(1.0)
        return examiner


@dataclass(frozen=True, slots=True, eq=False)
class _Everything:
    """Results, the weights at the answer token, and, where wanted, which part of its prompt each token belongs to."""

    results: SplitResults
    weights: AnswerWeights
    parted: tuple[PromptEncoder, Sequence[PromptedQuestion]] | None

    @property
    def reads_mass(self) -> bool:
        return self.results.reads_mass

    @property
    def needs(self) -> frozenset[str]:
        return self.results.needs

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        if self.parted is not None:
            encoder, prompts = self.parted
            parts = [encoder.parts(prompts[index]) for index in batch.question_B.tolist()]
            padded_BS = pad_sequence(parts, batch_first=True, padding_value=-1)
            spare = batch.input_ids_BS.shape[1] - padded_BS.shape[1]
            part_T = torch.nn.functional.pad(padded_BS, (0, spare), value=-1).reshape(-1)
            trace.part_T = part_T.to(trace.real_T.device)
        self.results.add(trace, batch, judged)
        self.weights.add(trace, batch, judged)


@dataclass(frozen=True, slots=True, eq=False)
class QuizPass:
    """What one pass over a split came to.

    Args:
        shots: Worked examples before each question.
        examiner: Who asked.
        results: Answers and routing.
        weights: What each question's answer token gives each expert.
    """

    shots: int
    examiner: Examiner
    results: SplitResults
    weights: AnswerWeights

    @property
    def quiz(self) -> QuizDataModule:
        """The data it read."""
        return self.examiner.quiz

    @property
    def letter_mass_Q(self) -> Tensor:
        """Share of the vocabulary's probability that each question's letters hold, in order; NaN under cloze."""
        order_Q = torch.cat(self.results.question_Q).argsort()
        mass_Q = self.results.answers.get("letter_mass_B")
        return torch.full(order_Q.shape, torch.nan) if mass_Q is None else mass_Q[order_Q]

    @property
    def predictions_Q(self) -> Tensor:
        """The letter given to each question, in the order of the split."""
        order_Q = torch.cat(self.results.question_Q).argsort()
        return self.results.log_probs_QA[order_Q].argmax(-1)


def run_pass(
    model: AnalysedModel, quiz: QuizDataModule, split: str, trainer: Trainer, checkpoint: str | None
) -> QuizPass:
    """Answer every question of a split once."""
    examiner = model.examiner(quiz, trainer, checkpoint)
    results, weights = examiner.results(split, model.scopes), AnswerWeights(examiner.metric_shape(split))
    parted = None
    if any(scope in PARTS for scope in model.scopes):
        parted = quiz.encoder(split), quiz.encoded(split).prompts
    examiner.evaluate(split, _Everything(results, weights, parted), announced=f"{split}, {quiz.few_shot}-shot")
    return QuizPass(quiz.few_shot, examiner, results, weights)
