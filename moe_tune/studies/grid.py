"""Many heads in one pass: the settings of a head, or checkpoints, evaluated together on the validation questions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from moe_tune.answer_path.settings import AnswerPath
from moe_tune.base.errors import ModelError
from moe_tune.data.batching import Batch
from moe_tune.data.module import QuizDataModule
from moe_tune.heads.base import BaseGate, RouterHead
from moe_tune.heads.identity import IdentityHead
from moe_tune.metrics.base import Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing.layer_choice import choose_layers
from moe_tune.stats.paired import PairedResult, compare_paired
from moe_tune.tuner.calibration import training_table
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
        bound: The head on each of its layers, once the model is loaded.
    """

    label: str
    head: RouterHead
    layers: str | list[int] | None
    state: dict[str, torch.Tensor] | None = None
    fingerprint: str | None = None
    bound: dict[int, RouterHead] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How one head of a grid did; the first is the pretrained router.

    Args:
        label: What tells it from the others.
        numbers: Accuracy, loss and the routing's numbers, as in a run's history.
        result: The paired comparison with the pretrained router; ``None`` for itself.
    """

    label: str
    numbers: dict[str, float]
    result: PairedResult | None


class GridTuner(RouterTuner):
    """Evaluates several heads on the same batches; keys and values are read once for all of them.

    Args:
        host: What the heads have in common: base model, numerics, answer path.
        points: The heads.
    """

    def __init__(self, host: RouterTuner, points: list[Point]) -> None:
        settings = AnswerPath(**{**vars(host.answer_path), "use": "always"})
        super().__init__(
            host.base,
            IdentityHead(),
            {},
            "all",
            "answer",
            host.task_loss,
            host.task_weight,
            host.routing_dtype,
            settings,
        )
        self.points = [Point("pretrained router", IdentityHead(), None), *points]
        self.outcomes: list[SplitResults] = []

    def configure_model(self) -> None:
        """Load the model, and bind every head to the layers it is on."""
        if self.language_model is not None:
            return
        layers: set[int] = set()
        super().configure_model()
        gates = self.routers.gates
        for point in self.points:
            chosen = choose_layers(point.layers, list(gates)) if point.layers is not None else ()
            layers |= set(chosen)
            for layer in chosen:
                gate = gates[layer]
                point.bound[layer] = point.head.bound_to(BaseGate(gate.weight, gate.rule, layer))
            if point.state is not None:
                self._load(point, point.state)
            for head in point.bound.values():
                head.eval()
                head.set_progress(1.0)
        self.routers.layers = tuple(sorted(layers))
        self.routers.compare([point.bound for point in self.points])

    def _load(self, point: Point, state: dict[str, torch.Tensor]) -> None:
        mine = {
            f"layers.{layer}.{name}": value
            for layer, head in point.bound.items()
            for name, value in head.state_dict().items()
        }
        if mine.keys() != state.keys() or point.fingerprint != self.fingerprint:
            raise ModelError(
                f"expected a checkpoint of this base model, fingerprint {self.fingerprint}, but got one for "
                f"{point.fingerprint} ({point.label}). Hint: compare checkpoints of one base model at a time."
            )
        with torch.no_grad():
            for name, value in state.items():
                mine[name].copy_(value)

    def get_ready(self) -> None:
        """Bring the heads to the device, which Lightning does only for the modules it knows."""
        for point in self.points:
            for head in point.bound.values():
                head.to(self.device)
        super().get_ready()

    def calibrate(self) -> None:
        """Calibrate the heads that need it and have no state yet."""
        waiting = [point for point in self.points if point.state is None and point.head.traits.needs_calibration]
        if not waiting or self.calibrated:
            return
        panel, self.routers.session.panel = self.routers.session.panel, []
        table = training_table(self)
        self.routers.session.panel = panel
        for point in waiting:
            for layer, head in point.bound.items():
                head.calibrate(table.layers[layer])
        self.calibrated = True

    def evaluate(self, batch: Batch, split: str) -> None:
        """Answer a batch with every head."""
        log_probs, loss = self.answer(batch, split)
        heads = len(self.points)
        if not self.outcomes:
            shape = self.metric_shape(split)
            self.outcomes = [SplitResults(RoutingEvidence(shape).to(self.device)) for _ in self.points]
        for index, results in enumerate(self.outcomes):
            trace = self.routers.trace.of_head(index, heads)
            log_probs_BA, loss_B = log_probs[index::heads], loss[index::heads]
            outcome = Outcome(log_probs_BA.argmax(-1) == batch.gold_B, batch.subject_B, batch.question_B)
            results.add(trace, outcome, batch.question_B, log_probs_BA, loss_B)

    def log_evidence(self) -> None:
        """Log nothing: the outcomes are printed together."""


def run_grid(host: RouterTuner, quiz: QuizDataModule, points: list[Point], trainer: Trainer) -> list[Outcomes]:
    """Evaluate heads together on the validation questions, and compare each with the pretrained router.

    Args:
        host: What the heads have in common.
        quiz: The data.
        points: The heads; at least one.
        trainer: Runs the validation.
    """
    tuner = GridTuner(host, points)
    trainer.validate(tuner, datamodule=quiz, verbose=False)
    questions = quiz.questions("validation")
    gold_Q = np.array([one.answer for one in questions])
    right = []
    for results in tuner.outcomes:
        order_Q = torch.cat(results.question_Q).argsort()
        right.append(torch.cat(results.log_probs_QA)[order_Q].argmax(-1).numpy() == gold_Q)
    hashes, subjects = [one.content_hash for one in questions], [one.subject for one in questions]
    compared: list[Any] = [None]
    compared += [compare_paired(right[0][None], one[None], hashes, subjects, [quiz.seed]) for one in right[1:]]
    return [
        Outcomes(point.label, results.summary(), result)
        for point, results, result in zip(tuner.points, tuner.outcomes, compared, strict=True)
    ]
