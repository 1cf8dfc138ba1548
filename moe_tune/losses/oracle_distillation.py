"""Oracle distillation: route each training question as offsets of its logits, sought for its answer, would have it."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext, OracleSearch
from moe_tune.losses.routing_anchor import routing_divergence
from moe_tune.routing import RouterOutput, RoutingTrace


class OracleDistillationLoss(AuxLoss):
    """Pulls the gate of each training question towards the routing that a search for its right answer has found.

    Formula: ``mean_q [q right] KL(sg(p*_q) || p_q)`` at the answer position, then the mean over layers. ``p*`` are the
    probabilities under offsets of the pretrained routers' logits in all layers with a head, sought once before training
    for each training question by itself: Adam on its task loss, from 0. Questions that are not answered correctly even
    then count as 0. Value ``ln E - H(p*)`` for a uniform gate. The search costs ``steps`` forward and backward passes
    over one token per training question.

    Args:
        weight: Factor on the loss; positive pulls towards the oracle.
        steps: Steps of Adam, at least 1.
        rate: Its learning rate, above 0, in logits.

    Raises:
        ConfigError: ``steps`` or ``rate`` is out of range, or the loss looks at a layer without a head.

    Reference:
        Li et al. 2025, "RoMA", https://arxiv.org/abs/2511.07419 (the routing that gradient descent finds for a training
        question, as a baseline). The baseline's own code was not there to be read: the offsets of logits, steps, rate,
        and the divergence in place of a squared distance are this project's.
    """

    needs = frozenset({"oracle"})
    scopes = ("answer",)

    def __init__(self, weight: float = 1.0, steps: int = 10, rate: float = 0.01, **shared: Any) -> None:
        super().__init__(weight, **shared)
        name = type(self).__name__
        require(steps >= 1, "at least 1 step", steps, f"{name}.steps", "the default is 10.")
        require(0 < rate < float("inf"), "a rate above 0", rate, f"{name}.rate", "the default is 0.01.")
        self.search = OracleSearch(steps, rate)

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        oracle = context.oracle
        assert oracle is not None
        question_T = trace.question_T[trace.answer_T]
        self.refuse_unknown(self.chosen_layers(trace, context), oracle.probs_QE)

        def layer(output: RouterOutput) -> Tensor:
            sought_TE = oracle.probs_QE[output.layer][question_T].clamp(min=torch.finfo(torch.float32).tiny)
            away_T = routing_divergence(sought_TE.log(), output.probs_TE)
            return (away_T * oracle.right_Q[question_T]).mean()

        return self.mean_over_layers(trace, context, layer)
