"""What a model still can: its answers to held-out questions, its losses on text, what it says in its own words."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from moe_tune.callbacks.question_records import question_frame
from moe_tune.data.exact_match import exact_match
from moe_tune.data.module import QuizDataModule
from moe_tune.runs.ledger import OpenedTest, question_lines, test_content
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.greedy_answers import greedy_answers
from moe_tune.tuner.opening import OpenModel
from moe_tune.tuner.text_losses import document_losses

Kind = Literal["questions", "text", "generation"]
OWN_TEXT = "text"
"""What the held-out part of the text that is trained on is called."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedSet:
    """What a model made of one set.

    Args:
        kind: Which kind of set it is.
        frame: A row per question or document: ``content_hash`` and ``correct``, or ``tokens`` and mean ``loss``, nats.
        opened: What the ledger keeps of it; ``None`` for what is no test.
    """

    kind: Kind
    frame: pd.DataFrame
    opened: OpenedTest | None = None


def sets_of(quiz: QuizDataModule, test: bool) -> list[str]:
    """Return the names of the sets that a model is judged on.

    Args:
        quiz: The data.
        test: Whether the quiz's own test split is opened; further sources are whenever they are configured.
    """
    own = [one for one in quiz.test_names if one not in quiz.test_sources] if test else []
    text = [OWN_TEXT] if quiz.text is not None else []
    return ["validation", *own, *quiz.test_sources, *text, *quiz.texts, *quiz.short_answers]


def judged_model(
    opened: OpenModel,
    quiz: QuizDataModule,
    names: list[str],
    numerics: Callable[[], AbstractContextManager[object]],
) -> dict[str, JudgedSet]:
    """Return what a model makes of each set, as it is, with the heads that are on it."""
    examiner = opened.examiner(quiz, numerics=numerics)
    return {name: _judged(name, opened, quiz, examiner, numerics) for name in names}


def _judged(
    name: str,
    opened: OpenModel,
    quiz: QuizDataModule,
    examiner: Examiner,
    numerics: Callable[[], AbstractContextManager[object]],
) -> JudgedSet:
    gated = opened.gated
    weights = gated.all_weights
    if name == OWN_TEXT or name in quiz.texts:
        loader: Any = quiz.block_loader("validation") if name == OWN_TEXT else quiz.text_loader(name)
        gated.model.set_experts_implementation(opened.pass_experts)
        losses = document_losses(gated, loader, name, numerics)
        every = quiz.text_blocks("validation") if name == OWN_TEXT else quiz.documents(name)
        asked = [every[index].document for index in losses.document_D.tolist()]
        frame = pd.DataFrame(
            {
                "content_hash": [one.content_hash for one in asked],
                "tokens": losses.tokens_D.numpy(),
                "loss": (losses.loss_D / losses.tokens_D).numpy(),
            }
        )
        value = float((frame["loss"] * frame["tokens"]).sum() / frame["tokens"].sum())
        lines = [f"{content} {tokens}" for content, tokens in zip(frame["content_hash"], frame["tokens"], strict=True)]
        read = None if name == OWN_TEXT else _opening(lines, name, len(frame), "text", weights, value)
        return JudgedSet("text", frame, read)
    if name in quiz.short_answers:
        gated.model.set_experts_implementation(opened.pass_experts)
        most = quiz.short_answers[name].source.max_new_tokens
        said = greedy_answers(gated, quiz.short_loader(name), opened.asked.base.load_tokenizer(), most, numerics)
        questions = [quiz.short_questions(name)[index].question for index in said.question_Q.tolist()]
        right = [exact_match(text, one.accepted) for text, one in zip(said.texts, questions, strict=True)]
        frame = pd.DataFrame({"content_hash": [one.content_hash for one in questions], "correct": right})
        lines = [f"{one.content_hash} {sorted(one.accepted)}" for one in questions]
        read = _opening(lines, name, len(frame), "short answers", weights, float(frame["correct"].mean()))
        return JudgedSet("generation", frame, read)
    gated.model.set_experts_implementation(opened.experts)
    results = examiner.evaluate(name, examiner.results(name, ("answer",)), announced=name)
    frame = question_frame(quiz.questions(name), torch.cat(results.question_Q), results.answers)
    frame["correct"] = frame["gold"] == frame["prediction"]
    if name == "validation":
        return JudgedSet("questions", frame)
    content, accuracy = test_content(question_lines(frame)), float(frame["correct"].mean())
    protocol, shots = quiz.protocol_name(name), quiz.few_shot
    read = OpenedTest(content, name, "prune", len(frame), protocol, shots, weights, accuracy)
    return JudgedSet("questions", frame, read)


def _opening(lines: list[str], name: str, count: int, protocol: str, weights: str, value: float) -> OpenedTest:
    return OpenedTest(test_content(lines), name, "prune", count, protocol, 0, weights, value)
