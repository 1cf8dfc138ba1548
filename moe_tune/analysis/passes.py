"""The passes over the questions that an analysis reads: every token's routing, told by scope and prompt part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moe_tune.answer_path.engine import AnswerEngine
from moe_tune.data.batching import Batch
from moe_tune.data.encoding import PromptEncoder
from moe_tune.data.module import QuizDataModule
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing import PARTS, Part, Scope
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


class AnalysisTuner(RouterTuner):
    """Answers questions as a run does, and keeps what its routers did under every scope asked for.

    Args:
        host: The model, the head and their numerics.
        scopes: Which tokens count; with ``answer`` alone prompts go the way of the host's ``answer_path``.
    """

    def __init__(self, host: RouterTuner, scopes: Sequence[Scope | Part]) -> None:
        way = host.answer_path if list(scopes) == ["answer"] else replace(host.answer_path, use="never")
        super().__init__(
            host.base,
            host.head,
            {},
            host.layer_choice,
            host.scope,
            host.task_loss,
            host.task_weight,
            host.routing_dtype,
            way,
            host.peft,
        )
        self.scopes = tuple(scopes)
        self._encoder: PromptEncoder | None = None

    def forget(self) -> None:
        """Begin anew: prompts with other examples are other prompts, and so is what heads are calibrated on."""
        self.calibrated, self.table = False, None
        if self.language_model is not None:
            self.engine = AnswerEngine(self, self.answer_path)

    def on_predict_epoch_start(self) -> None:
        """Begin a pass."""
        self.results = {}
        split = self.quiz.predict_split
        if split != "train" and self.table and self.head.traits.needs_calibration:
            self.table.refuse_overlap(self.quiz.questions(split), split)
        parted = any(scope in PARTS for scope in self.scopes)
        self._encoder = self.quiz.encoder(split) if parted else None

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Answer a batch and keep its routing."""
        split = self.quiz.predict_split
        log_probs_BA, loss_B = self.answer(batch, split)
        trace = self.routers.trace
        if self._encoder is not None:
            trace.part_T = self._parts(self._encoder, batch, split).to(trace.real_T.device)
        if split not in self.results:
            self.results[split] = SplitResults(RoutingEvidence(self.metric_shape(split), self.scopes).to(self.device))
        outcome = Outcome(log_probs_BA.argmax(-1) == batch.gold_B, batch.subject_B, batch.question_B)
        self.results[split].add(trace, outcome, batch.question_B, log_probs_BA, loss_B)
        return {}

    def _parts(self, encoder: PromptEncoder, batch: Batch, split: str) -> Tensor:
        prompts = self.quiz.encoded(split).prompts
        parts = [encoder.parts(prompts[index]) for index in batch.question_B.tolist()]
        padded_BS = pad_sequence(parts, batch_first=True, padding_value=-1)
        spare = batch.input_ids_BS.shape[1] - padded_BS.shape[1]
        return torch.nn.functional.pad(padded_BS, (0, spare), value=-1).reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class QuizPass:
    """What one pass over a split came to.

    Args:
        shots: Worked examples before each question.
        quiz: The data it read.
        trainer: What ran it.
        results: Answers and routing.
    """

    shots: int
    quiz: QuizDataModule
    trainer: Trainer
    results: SplitResults

    @property
    def predictions_Q(self) -> Tensor:
        """The letter given to each question, in the order of the split."""
        order_Q = torch.cat(self.results.question_Q).argsort()
        return torch.cat(self.results.log_probs_QA)[order_Q].argmax(-1)


def run_pass(
    tuner: AnalysisTuner, quiz: QuizDataModule, split: str, trainer: Trainer, checkpoint: str | None
) -> QuizPass:
    """Answer every question of a split once.

    Args:
        tuner: What answers.
        quiz: The data.
        split: Which questions: ``train``, ``validation``, or a name of ``quiz.test_names``.
        trainer: Runs the pass.
        checkpoint: The checkpoint whose heads answer; ``None`` takes them as they are configured.
    """
    quiz.predict_split = split
    tuner.forget()
    trainer.predict(tuner, datamodule=quiz, ckpt_path=checkpoint, weights_only=True, return_predictions=False)
    return QuizPass(quiz.few_shot, quiz, trainer, tuner.results[split])
