"""Many heads in one pass: the settings of a head, or checkpoints, evaluated together on the validation questions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.gates.head_state import copy_state, head_state
from moe_tune.heads.base import RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.routing import RoutingTrace
from moe_tune.stats.paired import PairedResult, compare_paired
from moe_tune.tuner.calibration import calibrate
from moe_tune.tuner.judged import Judged
from moe_tune.tuner.opening import open_model, refuse_strangers
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults


@dataclass(slots=True)
class Point:
    """One head of a grid.

    Args:
        label: What tells it from the others.
        head: The head prototype.
        layers: Which layers it is on, as ``model.layers`` says it; ``None`` is none.
        state: Its tensors by checkpoint name; ``None`` where it was never trained.
        fingerprint: Hash of the base model they were made for.
        calibrated_on: Content hashes of the questions that they were calibrated on.
        bound: The head on each of its layers, once the model is loaded.
    """

    label: str
    head: RouterHead
    layers: str | list[int] | None
    state: dict[str, torch.Tensor] | None = None
    fingerprint: str | None = None
    calibrated_on: frozenset[str] = frozenset()
    bound: dict[int, RouterHead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How one head of a grid did; the first is the pretrained router.

    Args:
        label: What tells it from the others.
        numbers: Accuracy, loss and the routing's numbers, as in a run's history.
        result: The paired comparison with the pretrained router; ``None`` for itself.
        experts: Experts that do work for an answer token, mean over layers and questions.
        as_pretrained: Whether every log-probability is that of the pretrained router, to 1e-5.
    """

    label: str
    numbers: dict[str, float]
    result: PairedResult | None
    experts: float
    as_pretrained: bool


@dataclass(frozen=True, slots=True)
class _Panel:
    """Keeps the results of heads that answer side by side."""

    results: list[SplitResults]

    @property
    def reads_mass(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return self.results[0].needs

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        heads = len(self.results)
        for index, one in enumerate(self.results):
            one.add(trace.of_head(index, heads), batch, judged.of_head(index, heads))


class Grid:
    """Several heads on one model, which answer the same batches; keys and values are read once for all of them.

    Args:
        host: What the heads have in common: base model, numerics, answer path. It is not loaded.
        points: The heads.
        quiz: The data.
        trainer: On which hardware, and with which numerics.

    Raises:
        ConfigError: There is a LoRA, which changes every token.
        ModelError: A checkpoint is of another base model, or of another head.
    """

    def __init__(self, host: RouterTuner, points: Sequence[Point], quiz: QuizDataModule, trainer: Trainer) -> None:
        refuse_lora(host, "model.peft")
        quiz.prepare(host.tokenizer, host.context_length)
        way = replace(host.answer_path, use="always")
        asked = replace(host.asked, head=IdentityHead(), losses={}, layers="all", scope="answer", answer_path=way)
        opened = open_model(asked, trainer.strategy.root_device)
        self.points, gated = points, opened.gated
        for point in points:
            point.bound = {} if point.layers is None else gated.bind(point.head, point.layers)
            refuse_strangers(gated, point.bound)
            if point.state is not None:
                _load(point, point.state, gated.fingerprint)
            for bound in point.bound.values():
                bound.set_progress(1.0)
        gated.calibrated_on = frozenset().union(*(point.calibrated_on for point in points))
        layers = {layer for point in points for layer in point.bound}
        self.examiner = opened.examiner(quiz, numerics=trainer.precision_plugin.forward_context, layers=layers)
        waiting = [one for one in points if one.state is None and one.head.traits.needs_calibration]
        if waiting:
            calibrate(self.examiner, [pair for point in waiting for pair in point.bound.items()])

    def evaluate(self, split: str, batches: Iterable[Batch] | None = None) -> list[SplitResults]:
        """Return how each head does on a split."""
        panel = _Panel([self.examiner.results(split) for _ in self.points])
        with self.examiner.gated.session([point.bound for point in self.points]):
            return self.examiner.evaluate(split, panel, batches).results


def refuse_lora(model: RouterTuner, where: str) -> None:
    """Refuse a model with a LoRA: it changes every token, so that heads cannot share what is kept of the prompts.

    Raises:
        ConfigError: It has one.
    """
    if model.peft:
        raise ConfigError(
            f"expected heads alone but got a LoRA, which changes every token ({where}). "
            "Hint: leave it out; experiment compares adapters."
        )


def _load(point: Point, state: dict[str, Tensor], fingerprint: str) -> None:
    if point.fingerprint != fingerprint:
        raise ModelError(
            f"expected a checkpoint of this base model, fingerprint {fingerprint}, but got one for "
            f"{point.fingerprint} ({point.label}). Hint: compare checkpoints of one base model at a time."
        )
    copy_state(head_state(point.bound), state, point.label)


def run_grid(host: RouterTuner, quiz: QuizDataModule, points: list[Point], trainer: Trainer) -> list[Outcomes]:
    """Evaluate heads together on the validation questions, and compare each with the pretrained router."""
    grid = Grid(host, [Point("pretrained router", IdentityHead(), None), *points], quiz, trainer)
    loader, limit = quiz.val_dataloader(), trainer.limit_val_batches
    every = grid.evaluate("validation", islice(loader, limit if isinstance(limit, int) else int(limit * len(loader))))
    right = []
    for results in every:
        place_Q, order_Q = torch.cat(results.question_Q).sort()
        questions = [quiz.questions("validation")[place] for place in place_Q.tolist()]
        gold_Q = np.array([one.answer for one in questions])
        right.append(results.log_probs_QA[order_Q].argmax(-1).numpy() == gold_Q)
    hashes, subjects = [one.content_hash for one in questions], [one.subject for one in questions]
    compared: list[Any] = [None]
    compared += [compare_paired(right[0][None], one[None], hashes, subjects, [quiz.seed]) for one in right[1:]]
    base_QA = every[0].log_probs_QA
    return [
        Outcomes(point.label, results.summary(), result, _experts(results), _close(results.log_probs_QA, base_QA))
        for point, results, result in zip(grid.points, every, compared, strict=True)
    ]


def _experts(results: SplitResults) -> float:
    tables = results.evidence.tables("answer")
    return float((tables["count"].sum(-1).double() / tables["tokens"].clamp(min=1)).mean())


def _close(log_probs_QA: Tensor, base_QA: Tensor) -> bool:
    return torch.allclose(log_probs_QA, base_QA, rtol=0, atol=1e-5)  # where neither has a choice both are -inf
