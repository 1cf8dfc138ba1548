"""What the pretrained router answers on a split: asked once for all runs of a process that ask alike."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer

from moe_tune.answer_path.description import prompt_hashes
from moe_tune.callbacks.evidence_tables import with_estimates
from moe_tune.callbacks.question_records import question_frame
from moe_tune.data.batching import Batch
from moe_tune.heads.identity import IdentityHead
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


@dataclass(frozen=True, slots=True, eq=False)
class BaseAnswers:
    """How a split goes with the pretrained router in every layer.

    Args:
        summary: The history's numbers.
        questions: One row per question.
        routing: One row per scope, layer and expert.
    """

    summary: dict[str, float]
    questions: pd.DataFrame
    routing: pd.DataFrame


Known = dict[tuple[Hashable, ...], BaseAnswers]
"""What was asked before, by all that the answers follow from."""


def base_answers(trainer: Trainer, tuner: RouterTuner, split: str, known: Known) -> BaseAnswers:
    """Return the pretrained router's answers; every process has to come here. No head at all is its own reference."""
    key = _circumstances(trainer, tuner, split)
    if key not in known:
        alone = split in tuner.results and isinstance(tuner.head, IdentityHead) and not tuner.trains
        results = tuner.results[split] if alone else _asked(trainer, tuner, split)
        known[key] = BaseAnswers(
            results.summary(), answered(tuner, split, results), with_estimates(results.evidence.frame())
        )
    return known[key]


def answered(tuner: RouterTuner, split: str, results: SplitResults) -> pd.DataFrame:
    """Return one row per answered question of a split, of all processes."""
    results.join()
    return question_frame(tuner.quiz.questions(split), torch.cat(results.question_Q), results.answers)


def validation_batches(trainer: Trainer, tuner: RouterTuner) -> Iterable[Batch]:
    """Return the validation batches, as many as the trainer reads."""
    # The trainer's own where it has one: to overfit it replaces the sampler.
    return first_batches(trainer.val_dataloaders or tuner.quiz.val_dataloader(), trainer.limit_val_batches)


def first_batches(loader: Any, limit: float) -> Iterable[Any]:
    """Return a loader's batches, as many as a trainer's limit (a number, or a share) lets through."""
    return islice(loader, limit if isinstance(limit, int) else int(limit * len(loader)))


def _asked(trainer: Trainer, tuner: RouterTuner, split: str) -> SplitResults:
    if split == "validation":
        batches = validation_batches(trainer, tuner)
    else:
        batches = first_batches(tuner.quiz.loader(split), trainer.limit_test_batches)
    with tuner.gated.session(base_only=True):
        return tuner.examiner.evaluate(split, tuner.examiner.results(split), batches)


def _circumstances(trainer: Trainer, tuner: RouterTuner, split: str) -> tuple[Hashable, ...]:
    gated, quiz, opened = tuner.gated, tuner.quiz, tuner.opened
    # Another way, or other layers of the answer path, rounds in another way: arms must not hang on which came first.
    way = tuner.examiner.settle(split), tuner.examiner.answering.circumstances.reach.first_layer
    numerics = (trainer.precision, tuner.routing_dtype, opened.experts, opened.pass_experts, str(gated.device))
    limits = (trainer.limit_val_batches, trainer.limit_test_batches, trainer.overfit_batches, trainer.world_size)
    asked = tuple(prompt_hashes(quiz.encoded(split)).values())
    return (split, gated.fingerprint, asked, quiz.eval_batch_size, tuner.asked.task_loss, *way, *numerics, *limits)
