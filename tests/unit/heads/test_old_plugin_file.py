"""A plug-in file written for the first house: its imports, traits, stages and arguments still do."""

import pytest
import torch
from made_up import layer_table, loss_context

from moe_tune.base.plugins import load_plugin_file
from moe_tune.gates.gated_model import TunedRouters
from moe_tune.heads.base import RouterHead
from moe_tune.losses.base import AuxLoss

FILE = '''
from dataclasses import replace

import torch

from moe_tune.errors import ConfigError
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.losses.base import AuxLoss
from moe_tune.routing import Decision, LayerTable, ScoringRule, stable_top_k
from moe_tune.schedule import ScheduleKind, scheduled
from moe_tune.train_table import TrainTable


class OldHead(RouterHead):
    """Halves what the weights differ by, renormalised.

    Args:
        kind: A schedule's kind.
    """

    def __init__(self, kind: ScheduleKind = "linear") -> None:
        super().__init__()
        self.share = scheduled(kind, 1.0, 0.0, 0.5)

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(
            trainable=True, needs_calibration=True, exact_start=False, foldable=False, replaces_logits=False,
            replaces_probabilities=True, selects_by_probability=False, replaces_weights=False, variable_k=False,
            train_only=False, keeps_mass=False, refreshes=True, reason="halves",
        )

    def bind(self, gate: BaseGate) -> None:
        self.rule: ScoringRule = gate.rule
        self.factor = torch.nn.Parameter(torch.ones(gate.rule.num_experts))

    def calibrate(self, table: LayerTable) -> None:
        best_Q1 = stable_top_k(table.logits_QE, 1)
        weights_Q1 = self.rule.weights(self.rule.probabilities(table.logits_QE), best_Q1)
        self.factor.data.fill_(float(weights_Q1.mean()))

    def weigh(self, decision: Decision) -> Decision:
        probs_TE = decision.rule.probabilities(decision.logits_TE.float() * self.share)
        unit = replace(decision.with_probabilities(probs_TE), rule=replace(decision.rule, renormalise=True))
        return unit.scaled(self.factor[decision.experts_TK])


class OldLoss(AuxLoss):
    """Counts the experts.

    Args:
        weight: Factor.
        schedule: Its schedule.
    """

    def __init__(self, weight: float = 1.0, schedule: ScheduleKind = "constant", weight_end: float = 0.0) -> None:
        super().__init__(weight, schedule, weight_end, 0.0, None, None)

    def compute(self, trace, context):
        return self.mean_over_layers(trace, context, lambda output: output.probs_TE.amax() * context.rule.top_k)
'''


@pytest.fixture
def old(tmp_path):
    file = tmp_path / "old_plugin.py"
    file.write_text(FILE, encoding="utf-8")
    return load_plugin_file(str(file))


def test_its_head_decides_and_trains(old, family, tiny_model, batch):
    assert issubclass(old.OldHead, RouterHead)
    routers = TunedRouters(tiny_model, family, old.OldHead())
    for head in routers.heads.values():
        head.calibrate(layer_table())
    tiny_model(**batch).logits.logsumexp(-1).sum().backward()
    for output in routers.trace.at("answer"):
        factor = routers.heads[output.layer].factor[0].detach()
        torch.testing.assert_close(output.weights_TK.sum(-1), factor.expand(5))
    assert all(head.factor.grad.any() for head in routers.heads.values())


def test_its_loss_computes(old, random_trace):
    assert issubclass(old.OldLoss, AuxLoss)
    value = old.OldLoss(0.5, "linear").compute(random_trace((4, 1, 3), 5), loss_context(questions=3))
    assert value.requires_grad
    assert old.OldLoss(0.5, "linear").current_weight(0.5) == 0.25
