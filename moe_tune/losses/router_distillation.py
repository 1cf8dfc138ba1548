"""Router distillation: answer as the model did with its pretrained routers."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RoutingTrace


class RouterDistillationLoss(AuxLoss):
    """Keeps the model's next-token distribution at the answer position near that of the pretrained routers.

    Formula: ``T^2 KL(sg(softmax(o_0 / T)) || softmax(o / T))`` over the whole vocabulary, then the mean over questions;
    ``o`` are the logits with the heads, ``o_0`` those with the pretrained routers, or those of ``model.teacher``.
    Value 0 while the two agree, uniform routing or not. Meant for recovery after experts were pruned (with the model
    before as teacher) or masked, or beside a loss that changes the routing. Without a teacher of its own it costs a
    second forward pass per batch. It reads the answer position, on text every token, whatever scope and layers say.

    Args:
        weight: Factor on the loss; positive keeps near.
        temperature: T, above 0; higher also compares the unlikely tokens.

    Raises:
        ConfigError: ``temperature`` is not a finite number above 0.

    Reference:
        https://arxiv.org/abs/2603.02217 (routers trained alone, by distillation).
    """

    reads_probabilities = False
    needs = frozenset({"teacher"})
    reads = "answer"

    def __init__(self, weight: float = 1.0, temperature: float = 1.0, **shared: Any) -> None:
        super().__init__(weight, **shared)
        where, hint = "RouterDistillationLoss.temperature", "1 compares the distributions as they are."
        require(0 < temperature < float("inf"), "a temperature above 0", temperature, where, hint)
        self.temperature = temperature

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        self.chosen_layers(trace, context)
        assert context.teacher_logits_BV is not None
        return distillation(context.logits_BV, context.teacher_logits_BV, self.temperature)


def distillation(logits_BV: Tensor, teacher_BV: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(logits / T))``, averaged over rows."""
    mine_BV = functional.log_softmax(logits_BV.float() / temperature, dim=-1)
    theirs_BV = functional.log_softmax(teacher_BV.detach().float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(mine_BV, theirs_BV, reduction="batchmean", log_target=True)
