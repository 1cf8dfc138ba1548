"""From Python, without a trainer: a quiz for a model, and how the model does on it."""

from typing import Any

from moe_tune.answer_path.answering import Answering
from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.settings import AnswerPath
from moe_tune.answer_path.way import Reach, with_heads
from moe_tune.data.module import QuizDataModule
from moe_tune.data.source import QuestionSource
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.calibration import calibrate
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.split_results import SplitResults


def quiz(source: QuestionSource, base: BaseModel, **options: Any) -> QuizDataModule:
    """Return the questions of a source as prompts for a model.

    Args:
        source: Where the questions come from.
        base: The model and its tokenizer.
        options: Further arguments of ``QuizDataModule``, such as ``protocol`` and ``few_shot``.
    """
    made = QuizDataModule(source, **options)
    made.prepare(base.load_tokenizer(), int(base.load_config().max_position_embeddings))
    return made


def evaluate(
    gated: GatedModel, questions: QuizDataModule, split: str = "validation", answer_path: AnswerPath | None = None
) -> SplitResults:
    """Return how a model does on a split: every answer, and every routing metric.

    Heads that need it are calibrated on the quiz's training questions first.

    Args:
        gated: The model with heads on it.
        questions: What ``quiz`` returned for the same base model.
        split: ``train``, ``validation``, ``test``, or another name of ``questions.test_names``.
        answer_path: Where prompts are kept; ``None`` runs the full prompts and keeps nothing.

    Raises:
        DataError: The heads were calibrated on questions of the split.
    """
    refusals = with_heads(gated.heads.values(), gated.family.refusals(gated.model.config))
    reach = Reach.of(gated.layers, gated.scope, gated.adapter is not None, {}, refusals)
    examiner = Examiner(Answering(Circumstances(gated, questions, reach, answer_path or AnswerPath(use="never"))))
    if not gated.calibrated and any(head.traits.needs_calibration for head in gated.heads.values()):
        calibrate(examiner)
    return examiner.evaluate(split, examiner.results(split))
