"""What a pass records beside the decisions: in training what losses need, in evaluation what metrics need."""

from types import SimpleNamespace

import pytest
import torch

from moe_tune.answer_path.way import Way, WayDecision
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.heads.retuned import RetunedHead
from moe_tune.losses.base import AuxLoss
from moe_tune.losses.expert_orthogonality import ExpertOrthogonalityLoss
from moe_tune.losses.router_distillation import RouterDistillationLoss
from moe_tune.losses.routing_anchor import RoutingAnchorLoss
from moe_tune.metrics.base import MetricShape, RoutingMetric
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.examiner import Examiner
from moe_tune.tuner.router_tuner import RouterTuner
from moe_tune.tuner.split_results import SplitResults

METRIC_NEEDS = frozenset().union(*(kind.needs for kind in concrete_subclasses(RoutingMetric).values()))


QUIZ = SimpleNamespace(letter_token_ids=lambda split: (1, 2))
BATCH = SimpleNamespace(choices=None)


class Stop(Exception):
    """Raised in place of the first thing after the forward pass."""


class Watched:
    """Notes what a forward pass would record, and ends the step after the last one."""

    def __init__(self, gated, passes):
        self.gated, self.passes, self.seen = gated, passes, []
        self.circumstances = SimpleNamespace(gated=gated, quiz=QUIZ)

    def decide(self, split):
        return WayDecision(Way.FULL_PROMPTS)

    def logits(self, batch, split, words=None):
        with self.gated.session() as session:
            self.seen.append(session.needs)
        if len(self.seen) == self.passes:
            raise Stop
        return torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        (None, [frozenset()]),
        (RoutingAnchorLoss(), [frozenset({"base_logits"})]),
        (ExpertOrthogonalityLoss(), [frozenset({"hidden"})]),
        (RouterDistillationLoss(), [frozenset(), frozenset()]),  # the teacher's pass, and the step's own
    ],
    ids=["none", "anchor", "orthogonality", "distillation"],
)
def test_training_records_what_losses_need_and_evaluation_what_metrics_need(loss, wanted, monkeypatch):
    assert {"base_logits"} == METRIC_NEEDS
    losses: dict[str, AuxLoss] = {} if loss is None else {"extra": loss}
    tuner = RouterTuner(BaseModel("nano", experts_implementation="eager"), RetunedHead(), losses)
    tuner.configure_model()
    monkeypatch.setattr(tuner, "set_progress", lambda: 0.0)
    monkeypatch.setattr(RouterTuner, "quiz", QUIZ)
    answering = Watched(tuner.gated, len(wanted))
    monkeypatch.setattr(RouterTuner, "examiner", Examiner(answering))
    with pytest.raises(Stop):
        tuner.training_step(BATCH, 0)
    assert answering.seen == wanted
    answering = Watched(tuner.gated, 1)
    evidence = RoutingEvidence(MetricShape((0, 1, 2, 3), 64, 8, 1, 1))
    with pytest.raises(Stop):
        Examiner(answering).answer_batch(BATCH, "validation", SplitResults(evidence))
    assert answering.seen == [METRIC_NEEDS]
    with tuner.gated.session() as session:
        assert session.needs == frozenset(), "what a pass records is restored, also when it fails"
