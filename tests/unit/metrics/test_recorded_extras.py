"""What a pass records beside the decisions: in training what losses need, in evaluation what metrics need."""

import pytest
import torch

from moe_tune.base.plugins import concrete_subclasses
from moe_tune.heads.retuned import RetunedHead
from moe_tune.losses.base import AuxLoss
from moe_tune.losses.expert_orthogonality import ExpertOrthogonalityLoss
from moe_tune.losses.router_distillation import RouterDistillationLoss
from moe_tune.losses.routing_anchor import RoutingAnchorLoss
from moe_tune.metrics.base import RoutingMetric
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.router_tuner import RouterTuner

METRIC_NEEDS = frozenset().union(*(kind.needs for kind in concrete_subclasses(RoutingMetric).values()))


class Stop(Exception):
    """Raised in place of the first thing after the forward pass."""


class Engine:
    """Notes what a forward pass would record, and ends the step after the last one."""

    def __init__(self, tuner, passes):
        self.tuner, self.passes, self.seen = tuner, passes, []

    def logits(self, batch, split):
        self.seen.append(self.tuner.routers.session.needs)
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
    tuner.engine = Engine(tuner, len(wanted))
    with pytest.raises(Stop):
        tuner.training_step(None, 0)
    assert tuner.engine.seen == wanted
    tuner.engine = Engine(tuner, 1)
    with pytest.raises(Stop):
        tuner.answer(None, "validation")
    assert tuner.engine.seen == [METRIC_NEEDS]
